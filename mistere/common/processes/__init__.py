"""Processes of this project: their environment, their threads, and their end."""
