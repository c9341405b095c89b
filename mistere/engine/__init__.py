"""What a stage is, and its execution: find finished work by its key, or run it."""

AFFECTS_RESULTS = False
"""How finished work is found and published changes no result."""
