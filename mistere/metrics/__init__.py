"""Arithmetic on arrays of predictions and labels: no model, no files."""
