"""The stages of the retraining pipeline, one folder each, and what they share in ``mistere``."""
