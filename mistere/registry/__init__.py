"""Model versions, their lineage, the champion, and the release that moves it."""

AFFECTS_RESULTS = False
"""The registry does not change the result of a cached stage."""
