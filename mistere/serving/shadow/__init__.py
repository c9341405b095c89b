"""The comparison of a predictor with its shadow: its figures, its files in the store, and which bundle the shadow serves."""
