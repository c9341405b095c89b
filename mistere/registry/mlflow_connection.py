"""The connection to an MLflow tracking server, and its errors as one sentence each."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mistere.common.errors import MistereError
from mistere.common.secrets.credentials import with_credentials
from mistere.common.urls import redact_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow.tracking import MlflowClient

_CONNECT_SECONDS = 10


@contextmanager
def connected(tracking_uri: str) -> Iterator[MlflowClient]:
    """Yield a client of a tracking server.

    Args:
        tracking_uri: its address; credentials that were removed from it come from the environment
            (:mod:`mistere.common.secrets.credentials`).

    Raises:
        MistereError: the server cannot be reached or refuses.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault(
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2"
    )  # with MLflow's default of seven, an error takes four minutes
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    from sqlalchemy.exc import SQLAlchemyError

    _check_database_port(tracking_uri)
    try:
        yield MlflowClient(tracking_uri=with_credentials(tracking_uri))
    except (MlflowException, SQLAlchemyError) as error:
        reason = str(error).splitlines()[0]
        raise MistereError(
            f"the MLflow server at {redact_url(tracking_uri)} failed or refused the request ({reason[:200]}): "
            "check its address and log, and MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD or "
            "MLFLOW_TRACKING_TOKEN."
        ) from error
    except ModuleNotFoundError as error:
        if not tracking_uri.startswith("postgresql"):
            raise
        raise MistereError(
            f"{redact_url(tracking_uri)} needs a driver for PostgreSQL: pip install 'mistere[postgres]'."
        ) from error


def _check_database_port(uri: str) -> None:
    """Fail fast if no database listens at the address: MLflow would retry the connection for two minutes."""
    import socket
    from urllib.parse import urlsplit

    if not uri.startswith("postgresql"):
        return
    try:
        parts = urlsplit(uri)
        if parts.hostname:
            socket.create_connection((parts.hostname, parts.port or 5432), _CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise MistereError(
            f"the registry's database at {redact_url(uri)} cannot be reached ({error}): check that it runs, and host "
            "and port in --tracking."
        ) from error
