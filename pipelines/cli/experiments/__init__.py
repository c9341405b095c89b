"""Train the mixture on existing embeddings: trials over seeds, ablations, tuning, and their reports."""
