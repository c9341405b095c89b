"""The commands of ``mistere data``."""
