"""Utterance encoders: sources, preparation of inputs, embedding."""
