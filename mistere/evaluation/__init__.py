"""Metrics of a trained model on a split, with and without modalities."""
