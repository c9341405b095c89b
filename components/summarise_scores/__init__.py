"""Join the scores of an archive's shards, and write the page about them."""
