"""One HTTP request with a short time limit, and a sentence that says why a server did not answer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mistere.common.environment import trusted_authorities
from mistere.common.errors import MistereError
from mistere.common.urls import server_of
from pipelines.cli.doctor.groups.clock import Clock

TIMEOUT_SECONDS: Final = (5.0, 10.0)
"""To connect, and to wait for the answer."""


@dataclass(frozen=True)
class Response:
    """The answer of a server; ``data`` is empty if the body is not a JSON object."""

    status: int
    data: Mapping[str, Any]
    is_json: bool
    headers: Mapping[str, str] = field(default_factory=dict)


def probe(
    url: str, server: str, clock: Clock | None = None, headers: Mapping[str, str] | None = None, method: str = "GET"
) -> Response:
    """Make one request. Redirects are not followed: they lead to login pages.

    Args:
        url: the address.
        server: what the error message calls the server.
        clock: records the server's time.
        headers: of the request.
        method: the HTTP method.

    Raises:
        MistereError: the server does not answer.
    """
    import requests

    address, sent = server_of(url), time.time()
    named = f"{server} at {address}"
    try:
        answer = requests.request(
            method,
            url,
            headers=dict(headers or {}),
            timeout=TIMEOUT_SECONDS,
            allow_redirects=False,
            verify=trusted_authorities() or True,
        )
    except requests.exceptions.SSLError as error:
        raise MistereError(
            f"the certificate of {named} is not trusted: set SSL_CERT_FILE to the file of its authority."
        ) from error
    except requests.Timeout as error:
        raise MistereError(
            f"{named} did not answer in time: check that it runs, and the VPN or port-forward that leads there."
        ) from error
    except (requests.RequestException, ValueError) as error:
        raise MistereError(
            f"{named} cannot be reached: check the address, and the VPN or port-forward that leads there."
        ) from error
    if clock is not None:
        clock.record(address, answer.headers.get("Date"), sent)
    try:
        data = answer.json()
    except ValueError:
        data = None
    is_object = isinstance(data, dict)
    return Response(answer.status_code, data if is_object else {}, is_object, answer.headers)
