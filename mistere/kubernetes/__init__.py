"""The Kubernetes API: client, current pod, keys of secrets, image references, managed fields."""

AFFECTS_RESULTS = False
"""The place where a stage runs does not change its result."""
