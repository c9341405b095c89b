"""The page of ``mistere shadow report``."""
