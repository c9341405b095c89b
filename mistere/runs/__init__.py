"""How a run began and how it ended."""

AFFECTS_RESULTS = False
"""What is recorded about a run changes no result."""
