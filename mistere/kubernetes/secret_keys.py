"""The keys of the secrets for pods; each becomes the environment variable of the same name.

Only the names are in code and manifests; the values are in the pod's environment.
"""

from __future__ import annotations

from typing import Final

STORAGE_KEYS: Final = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_ENDPOINT_URL",
    "MISTERE_DATA_ENDPOINT",
)
TRACKING_KEYS: Final = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
WEBHOOK_KEYS: Final = ("MISTERE_WEBHOOK_URL",)
