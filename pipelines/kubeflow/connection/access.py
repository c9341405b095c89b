"""Address and token of Kubeflow Pipelines, from the options, the environment and the settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

HOST_VARIABLE: Final = "KFP_ENDPOINT"
TOKEN_VARIABLE: Final = "KFP_TOKEN"  # noqa: S105  (the name of a variable)
_FILE_VARIABLE: Final = "KF_PIPELINES_SA_TOKEN_PATH"
_FILE: Final = "/var/run/secrets/kubeflow/pipelines/token"


def chosen_host(host: str | None, setting: str) -> str:
    """The address of Kubeflow Pipelines: the option, else the environment, else the setting; empty if none is set."""
    return (host or os.environ.get(HOST_VARIABLE) or setting).rstrip("/")


def service_account_token() -> Path | None:
    """The file with the pod's token for Kubeflow Pipelines; None if Kubernetes has not mounted one."""
    path = Path(os.environ.get(_FILE_VARIABLE) or _FILE)
    return path if path.is_file() else None
