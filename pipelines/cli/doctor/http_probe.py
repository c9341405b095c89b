"""Asking servers with short time-outs, and saying in a sentence why one did not answer."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from mistere.common.errors import MistereError
from pipelines.cli.doctor.groups.clock import Clock

TIMEOUT_SECONDS: Final = (5.0, 10.0)
"""To connect, and to answer."""


@dataclass(frozen=True)
class Answer:
    """What a server answered; ``data`` is empty where that was no JSON object."""

    status: int
    data: Mapping[str, Any]
    is_json: bool
    headers: Mapping[str, str] = field(default_factory=dict)


def ask(
    url: str, who: str, clock: Clock | None = None, headers: Mapping[str, str] | None = None, method: str = "GET"
) -> Answer:
    """One request; no redirect is followed, for a login page is no answer.

    Args:
        url: where.
        who: for the sentence.
        clock: hears what time the server has.
        headers: to send.
        method: HTTP's.

    Raises:
        MistereError: there is no answer.
    """
    import requests

    where, asked = place(url), time.time()
    try:
        answer = requests.request(
            method,
            url,
            headers=dict(headers or {}),
            timeout=TIMEOUT_SECONDS,
            allow_redirects=False,
            verify=authorities() or True,
        )
    except requests.exceptions.SSLError as error:
        raise MistereError(untrusted(who, where)) from error
    except requests.Timeout as error:
        raise MistereError(silent(who, where)) from error
    except (requests.RequestException, ValueError) as error:
        raise MistereError(unreachable(who, where)) from error
    if clock is not None:
        clock.hear(where, answer.headers.get("Date"), asked)
    try:
        data = answer.json()
    except ValueError:
        data = None
    known = isinstance(data, dict)
    return Answer(answer.status_code, data if known else {}, known, answer.headers)


def ask_api(call: Callable[..., Any], who: str) -> tuple[int, Any]:
    """Make a call of a generated client (Kubernetes' or Kubeflow Pipelines').

    Args:
        call: takes ``_request_timeout``.
        who: for the sentence, with where.

    Returns:
        0 and the answer, or the status that it was refused with and the refusal.

    Raises:
        MistereError: there is no answer.
    """
    import urllib3
    from kfp_server_api import ApiException as PipelinesException
    from kubernetes.client import ApiException

    try:
        return 0, call(_request_timeout=TIMEOUT_SECONDS)
    except urllib3.exceptions.SSLError as error:
        raise MistereError(untrusted(who)) from error
    except urllib3.exceptions.NewConnectionError as error:
        raise MistereError(unreachable(who)) from error
    except urllib3.exceptions.TimeoutError as error:
        raise MistereError(silent(who)) from error
    except urllib3.exceptions.HTTPError as error:
        raise MistereError(unreachable(who)) from error
    except (ApiException, PipelinesException) as error:
        if not error.status:  # what these clients make of a failure of TLS
            raise MistereError(untrusted(who)) from error
        return int(error.status), error


def place(url: str) -> str:
    """The server of a URL, without the name and password that may stand before it."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname or ''}{port}"


def authorities() -> str | None:
    """The file of certificates that are trusted; None for the usual ones."""
    return os.environ.get("SSL_CERT_FILE") or os.environ.get("REQUESTS_CA_BUNDLE") or None


def unreachable(who: str, where: str = "") -> str:
    """The sentence for a server that cannot be reached."""
    return f"{_named(who, where)} cannot be reached: check the address, and the VPN or port-forward that leads there."


def silent(who: str, where: str = "") -> str:
    """The sentence for a server that does not answer."""
    return f"{_named(who, where)} did not answer in time: check that it runs, and the VPN or port-forward that leads there."


def untrusted(who: str, where: str = "") -> str:
    """The sentence for a server whose certificate is not trusted."""
    return f"the certificate of {_named(who, where)} is not trusted: name its authority in SSL_CERT_FILE."


def _named(who: str, where: str) -> str:
    return f"{who} at {where}" if where else who
