"""The page of ``mistere demo``: type or record a conversation and see the model's predictions."""
