"""Which kept dialogues people should label next, and their answers as a new version of a dataset."""
