"""The commands behind ``mistere``, one module each, imported when called; ``data/``, ``registry/`` and ``run_records/`` hold those of a group."""
