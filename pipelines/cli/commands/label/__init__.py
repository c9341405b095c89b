"""The commands of ``mistere label`` and ``mistere traffic``."""
