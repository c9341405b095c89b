"""Pull a dataset version from its DVC remote and describe it."""
