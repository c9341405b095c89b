"""Turn every utterance into a vector with a fine-tuned encoder."""
