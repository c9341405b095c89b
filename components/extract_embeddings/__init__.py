"""Put the shards of a dataset's vectors together, dialogue by dialogue."""
