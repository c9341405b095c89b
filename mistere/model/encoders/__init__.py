"""Utterance encoders: where base weights come from, input preparation, families and embedding."""
