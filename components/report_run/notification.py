"""Notify a webhook when a run ends, in the message format of Slack, Mattermost, Rocket.Chat and others.

How it is posted is in :mod:`mistere.runs.webhook`. If the receiver does not answer, the run only notes it.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from typing import Any, Final

from mistere.artifacts.object_store import ObjectStore
from mistere.common.errors import MistereError
from mistere.common.progress import Progress
from mistere.reports.evaluated_model import COVERAGE, estimate_text
from mistere.runs.outcome import Outcome
from mistere.runs.webhook import VARIABLE, DeliveryError, escaped, markdown, post_message, section, webhook_url

_MOST_REASONS: Final = 5
_SIGNS: Final = {
    "deployed": ":white_check_mark:",
    "scored": ":white_check_mark:",
    "waiting": ":raised_hand:",
    "held": ":large_yellow_circle:",
    "rejected": ":x:",
    "data rejected": ":x:",
    "failed": ":rotating_light:",
}


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
    url = webhook_url()
    if not url:
        return
    try:
        content = message(outcome, profile, headline)
        digest = hashlib.sha256(json.dumps(content).encode()).hexdigest().encode()
        if _sent(store, outcome.run_id) == digest:
            return
        post_message(url, content)
        with suppress(MistereError, OSError):  # a repetition of the exit handler would send it again
            store.write(_sent_key(outcome.run_id), digest)
    except DeliveryError as error:
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
        section(f"{_SIGNS[outcome.verdict]} *{escaped(headline)}*"),
        {"type": "section", "fields": [markdown(f"*{name}*\n{escaped(value)}") for name, value in fields]},
    ]
    if reasons:
        blocks.append(section("\n".join(f"• {escaped(reason)}" for reason in reasons)))
    blocks.append({"type": "context", "elements": [markdown(f"Report: {escaped(outcome.report)}")]})
    return {"text": escaped(f"mistere: {outcome.verdict}, run {run}. {headline}"), "blocks": blocks}


def _figures(outcome: Outcome) -> list[tuple[str, str]]:
    if outcome.weighted_f1 is None:
        return []
    figures = [(f"Weighted F1 ({COVERAGE} interval)", estimate_text(outcome.weighted_f1))]
    if outcome.champion_difference is not None:
        figures.append(
            (
                f"Difference to the {outcome.compared_with}, paired",
                estimate_text(outcome.champion_difference, signed=True),
            )
        )
    elif outcome.champion_before or outcome.teacher:
        figures.append(
            (f"Difference to the {outcome.compared_with}", "not comparable: it was evaluated on another test split")
        )
    else:
        figures.append(("Difference to the champion", "there was no champion before"))
    return figures
