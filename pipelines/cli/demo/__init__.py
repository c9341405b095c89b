"""The page of ``mistere demo``: a conversation typed or recorded, and what the model makes of it."""
