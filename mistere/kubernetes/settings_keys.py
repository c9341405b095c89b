"""The ConfigMap that completes runs, and its keys; each key becomes the environment variable of the same name."""

from __future__ import annotations

from typing import Final

from mistere.common.environment import STORE_VARIABLE, TRACKING_VARIABLE

AFFECTS_RESULTS = False

SETTINGS_MAP: Final = "mistere-settings"
DATA_REMOTE, DATA_DIGEST, NAMESPACE = "MISTERE_DATA_REMOTE", "MISTERE_DATA_DIGEST", "MISTERE_NAMESPACE"
SETTINGS_KEYS: Final = (STORE_VARIABLE, TRACKING_VARIABLE, DATA_REMOTE, DATA_DIGEST, NAMESPACE)
