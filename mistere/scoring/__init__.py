"""Scoring a whole archive of dialogues with a released model: reading, predicting, statistics of calls, result files."""
