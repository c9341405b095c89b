"""Where Kubeflow Pipelines is and with which token: the names in the environment, said once for all who speak to it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

HOST_VARIABLE: Final = "KFP_ENDPOINT"
TOKEN_VARIABLE: Final = "KFP_TOKEN"
_FILE_VARIABLE: Final = "KF_PIPELINES_SA_TOKEN_PATH"
_FILE: Final = "/var/run/secrets/kubeflow/pipelines/token"


def chosen_host(host: str | None, setting: str) -> str:
    """The address: what an option names, else the environment, else the setting; empty where nobody names one."""
    return (host or os.environ.get(HOST_VARIABLE) or setting).rstrip("/")


def service_account_token() -> Path | None:
    """The file with a pod's own token, where Kubernetes has put one for Kubeflow Pipelines."""
    path = Path(os.environ.get(_FILE_VARIABLE) or _FILE)
    return path if path.is_file() else None
