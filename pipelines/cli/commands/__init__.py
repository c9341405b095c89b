"""The commands behind ``mistere``, one module each, imported when called; ``data/`` and ``registry/`` hold those of a group."""
