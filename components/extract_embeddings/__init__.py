"""Join the shards of a dataset's vectors, dialogue by dialogue."""
