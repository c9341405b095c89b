"""Notify a webhook when a run ends, in the message format of Slack, Mattermost, Rocket.Chat and others.

The URL of the webhook is a secret: it is read from the environment and never written to a log, message or record, and redirects
are not followed. If the receiver does not answer, the run only notes it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final
from urllib.parse import urlsplit

from mistere.artifacts.object_store import ObjectStore
from mistere.common.errors import MistereError
from mistere.common.progress import Progress
from mistere.kubernetes.secret_keys import WEBHOOK_KEYS
from mistere.reports.evaluated_model import COVERAGE, estimate_text
from mistere.runs.outcome import Outcome

VARIABLE: Final = WEBHOOK_KEYS[0]

_TRIES: Final = 2
_PAUSE_SECONDS: Final = 1.0
_TIMEOUT_SECONDS: Final = (3.0, 5.0)  # to connect, to answer
_LONGEST_TEXT, _MOST_REASONS = 2900, 5  # Slack takes 3,000 characters a block
_SIGNS: Final = {
    "deployed": ":white_check_mark:",
    "waiting": ":raised_hand:",
    "held": ":large_yellow_circle:",
    "rejected": ":x:",
    "data rejected": ":x:",
    "failed": ":rotating_light:",
}


class _DeliveryError(Exception):
    """Why the notification was not delivered, without the URL."""


def notify(outcome: Outcome, profile: str, headline: str, progress: Progress, store: ObjectStore) -> None:
    """Notify the webhook in ``MISTERE_WEBHOOK_URL``, if it is set and was not notified of this outcome before.

    Argo may repeat the exit handler, so what was sent is recorded under the run.

    Args:
        outcome: of the run.
        profile: of the run.
        headline: the first sentence of the report.
        progress: receives a note if the notification fails.
        store: the object store.
    """
    url = os.environ.get(VARIABLE, "").strip()
    if not url:
        return
    try:
        _require_private_transport(url)
        body = json.dumps(message(outcome, profile, headline)).encode()
        digest = hashlib.sha256(body).hexdigest().encode()
        if _sent(store, outcome.run_id) == digest:
            return
        _post(url, body)
        with suppress(MistereError, OSError):  # a repetition of the exit handler would send it again
            store.write(_sent_key(outcome.run_id), digest)
    except _DeliveryError as error:
        progress.note(f"the webhook in {VARIABLE} was not notified: {error}.")
    except Exception as error:  # a notification never fails the run; the error's text may hold the URL
        progress.note(f"the webhook in {VARIABLE} was not notified ({type(error).__name__}).")


def _sent_key(run_id: str) -> str:
    return f"runs/{run_id}/notified.txt"


def _sent(store: ObjectStore, run_id: str) -> bytes:
    """The digest of the message that was sent last; empty if none was, or if the store does not answer."""
    try:
        return store.read(_sent_key(run_id))[0]
    except MistereError:
        return b""


def message(outcome: Outcome, profile: str, headline: str) -> dict[str, Any]:
    """The message: ``text`` for previews, ``blocks`` for the channel."""
    run = f"{outcome.run_id} ({profile})" if profile else outcome.run_id
    reasons = outcome.reasons[:_MOST_REASONS]
    if len(outcome.reasons) > len(reasons):
        reasons = [*reasons, f"… and {len(outcome.reasons) - len(reasons)} more in the report."]
    fields = [("Verdict", outcome.verdict), ("Run", run), *_figures(outcome)]
    blocks: list[dict[str, Any]] = [
        _section(f"{_SIGNS[outcome.verdict]} *{_escaped(headline)}*"),
        {"type": "section", "fields": [_markdown(f"*{name}*\n{_escaped(value)}") for name, value in fields]},
    ]
    if reasons:
        blocks.append(_section("\n".join(f"• {_escaped(reason)}" for reason in reasons)))
    blocks.append({"type": "context", "elements": [_markdown(f"Report: {_escaped(outcome.report)}")]})
    return {"text": _escaped(f"mistere: {outcome.verdict}, run {run}. {headline}"), "blocks": blocks}


def _figures(outcome: Outcome) -> list[tuple[str, str]]:
    if outcome.weighted_f1 is None:
        return []
    figures = [(f"Weighted F1 ({COVERAGE} interval)", estimate_text(outcome.weighted_f1))]
    if outcome.champion_difference is not None:
        figures.append(("Difference to the champion, paired", estimate_text(outcome.champion_difference, signed=True)))
    elif outcome.champion_before:
        figures.append(("Difference to the champion", "not comparable: it was evaluated on another test split"))
    else:
        figures.append(("Difference to the champion", "there was no champion before"))
    return figures


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": _markdown(text)}


def _markdown(text: str) -> dict[str, str]:
    short = text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT].rsplit("&", 1)[0] + "…"
    return {"type": "mrkdwn", "text": short}


def _escaped(text: str) -> str:
    """Escape links, mentions and channel-wide notifications."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _require_private_transport(url: str) -> None:
    """Require https; plain http is accepted only for this machine, for example for a sidecar container."""
    parts = urlsplit(url)
    if not parts.hostname or parts.scheme not in {"http", "https"}:
        raise _DeliveryError("it is not an https:// URL; store the receiver's URL in the webhook's secret")
    if parts.scheme == "http" and not _is_this_machine(parts.hostname):
        raise _DeliveryError("it is plain http, which is not encrypted; store an https:// URL")


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _post(url: str, body: bytes) -> None:
    """Post; retry after a temporary failure.

    Raises:
        _DeliveryError: the receiver does not answer, or refuses the message.
    """
    for attempt in range(_TRIES):
        try:
            _post_once(url, body)
            return
        except _TemporaryError as error:
            if attempt + 1 == _TRIES:
                raise _DeliveryError(f"{error}, also on the second attempt") from None
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
        raise _DeliveryError(
            "the receiver's certificate is not trusted (set REQUESTS_CA_BUNDLE to the file of its authority)"
        ) from None
    except requests.ConnectionError:
        raise _TemporaryError("the receiver could not be reached") from None
    if 300 <= status < 400:
        raise _DeliveryError("the receiver answered with a redirect, which is not followed; store the final URL")
    if status >= 500 or status == 429:
        raise _TemporaryError(f"the receiver answered {status}")
    if status >= 400:
        raise _DeliveryError(f"the receiver answered {status}; the secret may be out of date")


@contextmanager
def _silent_connection() -> Iterator[None]:
    """Silence urllib3, which logs the path of a request: here the path is the secret."""
    logger = logging.getLogger("urllib3.connectionpool")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
