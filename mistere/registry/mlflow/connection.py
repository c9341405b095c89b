"""The connection to an MLflow tracking server, and its errors as one sentence each."""

from __future__ import annotations

import logging
import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistere.common.errors import MissingPackageError, MistereError
from mistere.common.os_errors import disk_error
from mistere.common.secrets.credentials import with_credentials
from mistere.common.secrets.redaction import redact
from mistere.common.urls import redact_url
from mistere.registry.mlflow.database_deadline import limit_queries
from mistere.registry.mlflow.moved_database import follow_move

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow.tracking import MlflowClient
    from sqlalchemy import Connection

_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_LEVEL = "MLFLOW_LOGGING_LEVEL"
_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    _LEVEL: "WARNING",  # INFO prints a line for each step of a new database
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # these pages show language models; ours is in the summary
    # MLflow's own defaults, seven repetitions of 120 s and any Retry-After, let an error take minutes.
    _TIMEOUT: "30",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "PGCONNECT_TIMEOUT": "10",
}
_ARTIFACT_ROOT = "_MLFLOW_SERVER_ARTIFACT_ROOT"
"""Where MLflow keeps the files of experiments that name no folder. By default that is the current directory, whose name MLflow
pastes into an SQL statement, where quotes and colons have a meaning; in a URL they are encoded."""
_DATABASE_SECONDS = 10
_CHECKED_BYTES = 256 << 20
"""Size up to which a SQLite file is checked as a whole before it is used, which takes about 1 ms a MiB."""
_MALFORMED = re.compile(r"malformed|is not a database|file is encrypted|Could not decode to UTF-8")
_LATE = re.compile(r"no answer within|connection timeout expired")
_SAME_STORE = "restore it from a copy, or name the registry that belongs to the store"
_CREDENTIALS = "check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"


@contextmanager
def connected(tracking_uri: str) -> Iterator[MlflowClient]:
    """Yield a client of a tracking server or database.

    Each request waits for 30 s and is repeated once, unless ``MLFLOW_HTTP_REQUEST_TIMEOUT`` and ``MLFLOW_HTTP_REQUEST_MAX_RETRIES``
    are set.

    Args:
        tracking_uri: its address; credentials that were removed from it come from the environment
            (:mod:`mistere.common.secrets.credentials`).

    Raises:
        MissingPackageError: the database needs a driver that is not installed.
        MistereError: the server cannot be reached, does not answer in time, refuses, or is no MLflow server; the database cannot
            be opened.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    from sqlalchemy.exc import SQLAlchemyError

    from mistere.registry.mlflow.checked_client import CheckedClient

    logging.getLogger("mlflow").setLevel(os.environ[_LEVEL].upper())  # MLflow reads it on import, which may be earlier
    try:
        _check_timeout()
        uri = with_credentials(tracking_uri)
        _check_database(uri)
        remote = uri.startswith(("http://", "https://"))
        yield CheckedClient(uri) if remote else MlflowClient(tracking_uri=uri)
    except (MlflowException, SQLAlchemyError) as error:
        shown = redact_url(tracking_uri)
        # a firewall denies a connection by the number of a folder without rights, and a server quotes its own disk
        local = None if tracking_uri.startswith(("http://", "https://")) else disk_error(error, shown)
        raise local or MistereError(_sentence(error, shown)) from error


def check_tracking(tracking_uri: str) -> None:
    """Check before any work that a tracking server answers and accepts the login, or that a database can be opened.

    Raises:
        MistereError: as for :func:`connected`.
    """
    if tracking_uri.startswith(("http://", "https://")):
        with connected(tracking_uri) as client:
            client.search_experiments(max_results=1)
        return
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    _check_timeout()
    _check_database(with_credentials(tracking_uri))


def _sentence(error: Exception, server: str) -> str:
    """What went wrong with the server, and what it answered."""
    import requests
    from urllib3.exceptions import NewConnectionError  # a timeout by its class, also where the connection is refused
    from urllib3.exceptions import TimeoutError as AnswerTimeoutError

    reason = re.sub(r"\s+", " ", redact(str(error).splitlines()[0] if str(error) else type(error).__name__))[:200]
    if server.startswith(("sqlite", "postgresql")):
        return _of_database(server, reason, error)
    chain = list(causes(error))
    repeated = re.search(r"too many (\d{3}) error responses", str(error))
    status = int(getattr(error, "get_http_status_code", lambda: 0)())
    refused = any(isinstance(cause, NewConnectionError) for cause in chain)
    if not refused and any(isinstance(cause, requests.Timeout | AnswerTimeoutError) for cause in chain):
        return (
            f"the MLflow server at {server} did not answer within {os.environ[_TIMEOUT]} s, {_attempts()} in a row: check that it runs "
            f"and is not overloaded, or raise {_TIMEOUT}."
        )
    if repeated:
        return f"the MLflow server at {server} answered {repeated[1]}, {_attempts()} in a row: see its log, and try again later."
    if any(isinstance(cause, requests.exceptions.SSLError) for cause in chain):
        return f"the certificate of the MLflow server at {server} is not trusted: set REQUESTS_CA_BUNDLE to the file of its authority."
    if any(isinstance(cause, requests.ConnectionError) for cause in chain):
        return f"the MLflow server at {server} cannot be reached: check the address, the network, and that the server runs."
    if "not in a valid JSON format" in str(error):
        return (
            f"the server at {server} does not answer as MLflow does (200 without JSON): name the address of the MLflow server "
            "instead."
        )
    if status in {401, 403}:
        return f"the MLflow server at {server} refused the request ({status}: {reason}): {_CREDENTIALS}."
    return (
        f"the MLflow server at {server} failed or refused the request ({reason}): check its address and log; if it requires a login, "
        f"{_CREDENTIALS}."
    )


def _of_database(database: str, reason: str, error: Exception) -> str:
    """What went wrong with a database, and the way out."""
    if database.startswith("sqlite") and _MALFORMED.search(str(error)):
        return _damaged(database, reason)
    if str(getattr(error, "error_code", "")) == "RESOURCE_DOES_NOT_EXIST":
        return f"the registry's database {database} does not hold what this store refers to ({reason}): {_SAME_STORE}."
    if _LATE.search(str(error)):
        return f"the registry's database {database} did not answer in time ({reason}): check that it runs and is not overloaded."
    return f"the registry's database {database} failed ({reason}): check that it is the store's own, complete, and not in use elsewhere."


def _damaged(database: str, reason: str) -> str:
    return (
        f"the registry's database {database} is damaged, or no database ({reason}): correct the path, restore the file from a copy, or move "
        "it away and run `mistere run`, which registers its model in a new one."
    )


def _attempts() -> str:
    count = 1 + int(os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"])
    return "once" if count == 1 else f"{count} times"


def causes(error: BaseException | None) -> Iterator[Any]:
    """The exception, and what it was raised for; urllib3 keeps the last reason of repeated requests in an attribute."""
    seen: set[int] = set()
    waiting: list[Any] = [error]
    while waiting:
        current = waiting.pop(0)
        if isinstance(current, BaseException) and id(current) not in seen:
            seen.add(id(current))
            yield current
            waiting += [current.__cause__, current.__context__, getattr(current, "reason", None), *current.args]


def _check_pages(connection: Connection, shown: str, file: Path) -> None:
    """Read all pages of a SQLite file that is not large; SQLite notices most damage, and MLflow repeats what fails for minutes."""
    connection.exec_driver_sql("PRAGMA schema_version")
    if file.is_file() and file.stat().st_size <= _CHECKED_BYTES:
        verdict = str(connection.exec_driver_sql("PRAGMA quick_check(1)").scalar())
        if verdict != "ok":
            raise MistereError(_damaged(shown, re.sub(r"\s+", " ", verdict)[:200]))


def _check_timeout() -> None:
    for name in (_TIMEOUT, "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        if not re.fullmatch(r"\d{1,4}", os.environ[name]):
            raise MistereError(f"{name}={os.environ[name]} is not a whole number: correct or unset it.")


def _check_database(uri: str) -> None:
    """Open the database once: MLflow tries one that cannot be opened for two minutes."""
    if not uri.startswith(("sqlite", "postgresql")):
        return
    from sqlalchemy import create_engine, make_url
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool

    shown = redact_url(uri)
    local = uri.startswith("sqlite")
    seconds = min(_DATABASE_SECONDS, int(os.environ[_TIMEOUT]))
    own_name = local or uri.startswith("postgresql+pg8000")  # the other drivers use libpq's
    limit = "timeout" if own_name else "connect_timeout"
    if not local:
        limit_queries(int(os.environ[_TIMEOUT]))
    try:
        database = Path(make_url(uri).database or "") if local else Path("database")
        os.environ[_ARTIFACT_ROOT] = (database.absolute().parent / "mlruns").as_uri()
        engine = create_engine(uri, poolclass=NullPool, connect_args={limit: seconds})
        with engine.connect() as connection:
            if local:
                _check_pages(connection, shown, database)
            else:
                connection.exec_driver_sql("SELECT 1")
        follow_move(database)  # not in a damaged one
    except ImportError as error:
        raise MissingPackageError(
            f"the registry's database at {shown} needs a driver that is not installed ({error}): pip install 'mistere[postgres]' and "
            "use postgresql+psycopg, or install the driver."
        ) from error
    except (SQLAlchemyError, ValueError) as error:
        reason = re.sub(r"\s+", " ", redact(str(getattr(error, "orig", None) or error)))[:200]
        if local and _MALFORMED.search(reason):
            raise MistereError(_damaged(shown, reason)) from error
        if local:
            raise MistereError(
                f"the registry's database {shown} cannot be opened ({reason}): check the path, that its folder exists and "
                "may be written to, and that no other process holds it."
            ) from error
        raise MistereError(
            f"the registry's database at {shown} cannot be reached ({reason}): check that it runs, and host, port, user and "
            "password in its address."
        ) from error
