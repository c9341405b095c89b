"""Transcribe the utterances that have audio and no text."""
