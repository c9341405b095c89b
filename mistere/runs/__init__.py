"""Records of a run's start and of its outcome."""

AFFECTS_RESULTS = False
"""Records about a run do not change its results."""
