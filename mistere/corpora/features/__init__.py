"""Feature files of the field (computational sequences, CSV, npz), read as one vector for each utterance."""
