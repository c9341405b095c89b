"""The page of ``mistere monitor``."""
