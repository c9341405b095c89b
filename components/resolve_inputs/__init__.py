"""Resolve what lies outside a run into digests, so that everything after it can be cached safely."""
