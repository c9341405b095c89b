"""Turn a share of the utterances into vectors with a fine-tuned encoder."""
