"""The training loop: batches, trainable parameters, checkpoints, callbacks."""
