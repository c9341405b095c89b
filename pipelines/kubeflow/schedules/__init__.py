"""Recurring runs: their file, and the changes that bring the server in line with it."""
