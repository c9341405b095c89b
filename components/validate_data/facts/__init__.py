"""Facts about a dataset: measurements of each utterance, and the counts and distances computed from them."""
