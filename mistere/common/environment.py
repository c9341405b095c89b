"""Names of environment variables that more than one room reads."""

from __future__ import annotations

STORE_VARIABLE, TRACKING_VARIABLE = "MISTERE_STORE", "MLFLOW_TRACKING_URI"
