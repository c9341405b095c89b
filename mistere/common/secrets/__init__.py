"""Secrets: masking them in text, passing them to child processes, and files that only their owner reads."""
