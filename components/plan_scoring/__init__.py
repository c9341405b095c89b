"""Pin a scoring run to an archive and a model, and share its shards out."""
