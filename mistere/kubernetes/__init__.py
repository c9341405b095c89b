"""The Kubernetes API: a client, the current pod, secret keys, image references."""

AFFECTS_RESULTS = False
"""Where a stage runs changes no result."""
