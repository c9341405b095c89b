"""HTML pages and plots of all reports."""

AFFECTS_RESULTS = False
"""Reports do not change results."""
