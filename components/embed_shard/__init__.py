"""Embed a share of the utterances with a fine-tuned encoder."""
