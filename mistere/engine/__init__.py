"""The declaration of a stage and its execution: reuse a finished step by its key, or run it."""

AFFECTS_RESULTS = False
"""How finished work is found and published changes no result."""
