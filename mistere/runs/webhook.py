"""Post a message to the webhook in the environment, in the format of Slack, Mattermost, Rocket.Chat and others.

The URL of the webhook is a secret: it is read from the environment and never written to a log, message or record, and redirects
are not followed.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from mistere.kubernetes.secret_keys import WEBHOOK_KEYS

VARIABLE: Final = WEBHOOK_KEYS[0]

_TRIES: Final = 2
_PAUSE_SECONDS: Final = 1.0
_TIMEOUT_SECONDS: Final = (3.0, 5.0)  # to connect, to answer
_LONGEST_TEXT: Final = 2900  # Slack takes 3,000 characters a block


class DeliveryError(Exception):
    """Why a message was not delivered, without the URL."""


def webhook_url() -> str:
    """The webhook in the environment; empty without one."""
    return os.environ.get(VARIABLE, "").strip()


def post_message(url: str, message: Mapping[str, Any]) -> None:
    """Post a message.

    Raises:
        DeliveryError: the URL is not allowed, the receiver does not answer, or it refuses the message.
    """
    _require_private_transport(url)
    _post(url, json.dumps(message).encode())


def try_to_post(message: Mapping[str, Any], note: Callable[[str], object]) -> None:
    """Post a message to the webhook in the environment, if there is one; a failure is only noted."""
    url = webhook_url()
    if not url:
        return
    try:
        post_message(url, message)
    except DeliveryError as error:
        note(f"the webhook in {VARIABLE} was not notified: {error}.")
    except Exception as error:  # the error's text may hold the URL
        note(f"the webhook in {VARIABLE} was not notified ({type(error).__name__}).")


def section(text: str) -> dict[str, Any]:
    """A block of a message."""
    return {"type": "section", "text": markdown(text)}


def markdown(text: str) -> dict[str, str]:
    """A text of a block, cut to what Slack takes."""
    short = text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT].rsplit("&", 1)[0] + "…"
    return {"type": "mrkdwn", "text": short}


def escaped(text: str) -> str:
    """Escape links, mentions and channel-wide notifications."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _require_private_transport(url: str) -> None:
    """Require https; plain http is accepted only for this machine, for example for a sidecar container."""
    parts = urlsplit(url)
    if not parts.hostname or parts.scheme not in {"http", "https"}:
        raise DeliveryError("it is not an https:// URL; store the receiver's URL in the webhook's secret")
    if parts.scheme == "http" and not _is_this_machine(parts.hostname):
        raise DeliveryError("it is plain http, which is not encrypted; store an https:// URL")


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _post(url: str, body: bytes) -> None:
    """Post; retry after a temporary failure.

    Raises:
        DeliveryError: the receiver does not answer, or refuses the message.
    """
    for attempt in range(_TRIES):
        try:
            _post_once(url, body)
            return
        except _TemporaryError as error:
            if attempt + 1 == _TRIES:
                raise DeliveryError(f"{error}, also on the second attempt") from None
            time.sleep(_PAUSE_SECONDS)


class _TemporaryError(Exception):
    """A failure after which a retry may succeed."""


def _post_once(url: str, body: bytes) -> None:
    import requests

    headers = {"Content-Type": "application/json", "User-Agent": "mistere"}
    try:
        with (
            _silent_connection(),
            requests.post(
                url, data=body, headers=headers, timeout=_TIMEOUT_SECONDS, allow_redirects=False, stream=True
            ) as answer,
        ):
            status = answer.status_code
    except requests.Timeout:
        raise _TemporaryError("the receiver did not answer in time") from None
    except requests.exceptions.SSLError:
        raise DeliveryError(
            "the receiver's certificate is not trusted (set REQUESTS_CA_BUNDLE to the file of its authority)"
        ) from None
    except requests.ConnectionError:
        raise _TemporaryError("the receiver could not be reached") from None
    if 300 <= status < 400:
        raise DeliveryError("the receiver answered with a redirect, which is not followed; store the final URL")
    if status >= 500 or status == 429:
        raise _TemporaryError(f"the receiver answered {status}")
    if status >= 400:
        raise DeliveryError(f"the receiver answered {status}; the secret may be out of date")


@contextmanager
def _silent_connection() -> Iterator[None]:
    """Silence urllib3, which logs the path of a request: here the path is the secret."""
    logger = logging.getLogger("urllib3.connectionpool")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
