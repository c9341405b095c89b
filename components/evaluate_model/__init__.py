"""Evaluate the mixture on the test split."""
