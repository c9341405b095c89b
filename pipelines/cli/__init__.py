"""The command ``mistere``: a module per command."""
