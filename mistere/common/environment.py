"""Environment variables that more than one package reads."""

from __future__ import annotations

import os
from typing import Final

STORE_VARIABLE, TRACKING_VARIABLE = "MISTERE_STORE", "MLFLOW_TRACKING_URI"
RETRIES_VARIABLE = "MISTERE_RETRIES"
"""How often a step on a cluster may be retried; set in each step's pod from ``cluster.steps.STEP.retries``."""

PROXY_VARIABLES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
AUTHORITY_VARIABLES: Final = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE")
"""Each holds the path of a file of trusted certificate authorities: of httpx and OpenSSL, of requests, of boto3."""
HUB_TOKEN: Final = "HF_TOKEN"  # noqa: S105  (a variable's name, not a secret)
FORWARDED_VARIABLES: Final = (
    HUB_TOKEN, "HF_ENDPOINT", *PROXY_VARIABLES, *AUTHORITY_VARIABLES,
    "AWS_EC2_METADATA_DISABLED", "AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE", "AWS_REQUEST_CHECKSUM_CALCULATION",
    "AWS_RESPONSE_CHECKSUM_VALIDATION", "AWS_STS_REGIONAL_ENDPOINTS", "AWS_USE_DUALSTACK_ENDPOINT", "AWS_USE_FIPS_ENDPOINT",
)  # fmt: skip
"""What ``cluster.env`` may set in the pods of the steps. Keys, region and endpoint of the store come from its secret."""


def trusted_authorities() -> str | None:
    """The file of trusted certificate authorities that the environment names; None for the default ones."""
    return os.environ.get("SSL_CERT_FILE") or os.environ.get("REQUESTS_CA_BUNDLE") or None
