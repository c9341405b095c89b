"""Telling a webhook how a run ended, in the form that Slack takes (as do Mattermost, Rocket.Chat and others).

The webhook's URL is a secret: it comes from the environment and goes into no log, message or record, and no redirect is
followed with it. A receiver that does not answer costs the run a note and nothing else.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

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
    "held": ":large_yellow_circle:",
    "rejected": ":x:",
    "data rejected": ":x:",
    "failed": ":rotating_light:",
}


class _NotToldError(Exception):
    """Why the webhook was not told, in words that say nothing of its URL."""


def notify(outcome: Outcome, profile: str, headline: str, progress: Progress) -> None:
    """Tell the webhook in ``MISTERE_WEBHOOK_URL``, if there is one.

    Args:
        outcome: how the run ended.
        profile: what it was started with.
        headline: the report's first sentence.
        progress: is told where the webhook could not be.
    """
    url = os.environ.get(VARIABLE, "").strip()
    if not url:
        return
    try:
        _insist_on_privacy(url)
        _post(url, json.dumps(message(outcome, profile, headline)).encode())
    except _NotToldError as error:
        progress.note(f"the webhook in {VARIABLE} was not told how the run ended: {error}.")
    except Exception as error:  # whatever it is, the run itself has ended as it has; the text may hold the URL
        progress.note(f"the webhook in {VARIABLE} was not told how the run ended ({type(error).__name__}).")


def message(outcome: Outcome, profile: str, headline: str) -> dict[str, Any]:
    """What the webhook is told: ``text`` for a line in a list, ``blocks`` for the channel."""
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
        figures.append(("Against the champion, paired", estimate_text(outcome.champion_difference, signed=True)))
    elif outcome.champion_before:
        figures.append(("Against the champion", "not comparable: its figure is of another test split"))
    else:
        figures.append(("Against the champion", "there was none before"))
    return figures


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": _markdown(text)}


def _markdown(text: str) -> dict[str, str]:
    short = text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT].rsplit("&", 1)[0] + "…"
    return {"type": "mrkdwn", "text": short}


def _escaped(text: str) -> str:
    """Text in which nothing is a link, a mention or a call of the whole channel."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _insist_on_privacy(url: str) -> None:
    """Only https; plain http no farther than this machine, where a receiver beside the pod's container may listen."""
    parts = urlsplit(url)
    if not parts.hostname or parts.scheme not in {"http", "https"}:
        raise _NotToldError("it is no https:// URL; store the one that the receiver gave in the webhook's secret")
    if parts.scheme == "http" and not _is_this_machine(parts.hostname):
        raise _NotToldError("it is plain http, which anybody on the way can read; store an https:// URL")


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _post(url: str, body: bytes) -> None:
    """Post, again after a failure that may pass.

    Raises:
        _NotToldError: the receiver does not answer, or does not take it.
    """
    for attempt in range(_TRIES):
        try:
            _post_once(url, body)
            return
        except _PassingError as error:
            if attempt + 1 == _TRIES:
                raise _NotToldError(f"{error}, and so it did again") from None
            time.sleep(_PAUSE_SECONDS)


class _PassingError(Exception):
    """A failure that may be over a moment later."""


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
        raise _PassingError("the receiver did not answer in time") from None
    except requests.exceptions.SSLError:
        raise _NotToldError("the receiver's certificate is not trusted (REQUESTS_CA_BUNDLE names others)") from None
    except requests.ConnectionError:
        raise _PassingError("the receiver could not be reached") from None
    if 300 <= status < 400:
        raise _NotToldError("the receiver answered with a redirect, which is not followed; store the final URL")
    if status >= 500 or status == 429:
        raise _PassingError(f"the receiver answered {status}")
    if status >= 400:
        raise _NotToldError(f"the receiver answered {status}; the secret may be out of date")


@contextmanager
def _silent_connection() -> Iterator[None]:
    """The HTTP library logs the path of what it asks for, and here the path is the secret."""
    logger = logging.getLogger("urllib3.connectionpool")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
