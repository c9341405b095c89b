"""HTML pages and plots, for every page that the product writes."""

AFFECTS_RESULTS = False
"""How results are shown changes no result."""
