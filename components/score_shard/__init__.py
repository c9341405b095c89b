"""Score a share of an archive's shards with a released model."""
