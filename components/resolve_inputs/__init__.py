"""Resolve the external inputs of a run to digests, so that every later step can be cached."""
