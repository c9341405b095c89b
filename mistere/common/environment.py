"""Environment variables that more than one package reads."""

from __future__ import annotations

import os

STORE_VARIABLE, TRACKING_VARIABLE = "MISTERE_STORE", "MLFLOW_TRACKING_URI"
RETRIES_VARIABLE = "MISTERE_RETRIES"
"""How often a step on a cluster may be retried; set in each step's pod from ``cluster.steps.STEP.retries``."""


def trusted_authorities() -> str | None:
    """The file of trusted certificate authorities that the environment names; None for the default ones."""
    return os.environ.get("SSL_CERT_FILE") or os.environ.get("REQUESTS_CA_BUNDLE") or None
