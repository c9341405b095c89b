"""Transcribe speech with a Whisper: find its weights, decode greedily."""
