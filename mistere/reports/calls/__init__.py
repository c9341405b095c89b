"""The page about the effects of real calls."""
