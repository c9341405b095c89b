"""Training the mixture on given embeddings: trials over seeds, ablations, tuning, and what is told of them."""
