"""Parts of the mixture's training: batches, the moving average of the weights."""
