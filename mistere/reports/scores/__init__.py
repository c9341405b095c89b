"""The page about the scores of an archive."""
