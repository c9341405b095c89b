"""One HTTP request, and a sentence that says why a server did not answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from mistere.common.environment import trusted_authorities
from mistere.common.errors import MistereError
from mistere.common.urls import server_of
from pipelines.cli.doctor.groups.clock import Clock

if TYPE_CHECKING:
    import requests

TIMEOUT_SECONDS: Final = (5.0, 30.0)
"""To connect, and to wait for the answer: as long as ``mistere submit`` waits, because a server that has just started is slow."""
RETRY_DELAYS: Final = (0.5, 1.0, 2.0)
"""Seconds before each repetition, for a server that ``mistere submit`` repeats requests to as well."""
_PASSING: Final = frozenset({408, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Response:
    """The answer of a server; ``data`` is empty if the body is not a JSON object."""

    status: int
    data: Mapping[str, Any]
    is_json: bool
    headers: Mapping[str, str] = field(default_factory=dict)


def probe(
    url: str,
    server: str,
    clock: Clock | None = None,
    headers: Mapping[str, str] | None = None,
    method: str = "GET",
    retry_delays: Sequence[float] = (),
) -> Response:
    """Make one request. Redirects are not followed: they lead to login pages.

    Args:
        url: the address.
        server: what the error message calls the server.
        clock: records the server's time.
        headers: of the request.
        method: the HTTP method.
        retry_delays: seconds before each repetition while the server fails; a request without an answer is repeated once.

    Raises:
        MistereError: the server does not answer.
    """
    import requests

    address = server_of(url)
    named = f"{server} at {address}"

    def request() -> requests.Response:
        return requests.request(
            method,
            url,
            headers=dict(headers or {}),
            timeout=TIMEOUT_SECONDS,
            allow_redirects=False,
            verify=trusted_authorities() or True,
        )

    try:
        answer, sent = _repeated(request, retry_delays)
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


def _repeated(request: Callable[[], requests.Response], delays: Sequence[float]) -> tuple[requests.Response, float]:
    """The first answer that is no passing failure, else the last; and when its request was sent."""
    import requests

    answered = True
    for delay in (*delays, None):
        sent = time.time()
        try:
            answer = request()
            if answer.status_code not in _PASSING or delay is None:
                return answer, sent
        except requests.exceptions.SSLError:
            raise
        except (requests.Timeout, requests.ConnectionError):
            if delay is None or not answered:
                raise
            answered = False
        time.sleep(delay)
    raise AssertionError("the last request returns or raises")
