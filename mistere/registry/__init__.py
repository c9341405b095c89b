"""Model versions, their lineage, the champion, and the release that moves it."""

AFFECTS_RESULTS = False
"""What is known about released models changes no result of a cached stage."""
