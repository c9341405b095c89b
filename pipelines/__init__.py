"""The retraining pipeline, its profiles, and the ``mistere`` command."""
