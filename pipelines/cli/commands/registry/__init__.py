"""The commands that work on registered model versions."""
