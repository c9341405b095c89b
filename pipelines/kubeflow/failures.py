"""What can go wrong between here and Kubeflow Pipelines, each as one sentence with the way to mend it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from mistere.common.errors import MistereError
from mistere.common.urls import redact_url

CLOCK_SECONDS = 300
"""How far this machine's clock may be from the server's: tokens and the store's signatures are refused beyond it."""

_LONGEST_REASON = 300
_NOT_ALLOWED = re.compile(
    r"unauthori[sz]ed|not authori[sz]ed|authori[sz]ation|permission denied|is denied", re.IGNORECASE
)
"""In a refused upload's sentence: its status is 400 whatever the cause."""


class PipelinesError(MistereError):
    """Kubeflow Pipelines refused something."""


class NotFoundError(PipelinesError):
    """It is not there (any more)."""


class AlreadyExistsError(PipelinesError):
    """It is there already."""


class UnavailableError(PipelinesError):
    """No answer, or trouble of the server's own: later there may be one, and what was asked may have been done."""


def refused(status: int, headers: Mapping[str, str], body: str, what: str, host: str, namespace: str) -> PipelinesError:
    """From an answer that is no success.

    Args:
        status: the HTTP status.
        headers: of the answer.
        body: of the answer.
        what: was asked for, as the subject of a sentence.
        host: of Kubeflow Pipelines.
        namespace: of the runs.
    """
    place, reason = f"Kubeflow Pipelines at {redact_url(host)}", _reason(body)
    said = f": {reason}" if reason else ""
    if status == 401:
        return PipelinesError(
            f"{place} does not accept the token (401): it is missing or has expired, so put a fresh one into KFP_TOKEN."
        )
    if status == 403 or (status == 400 and _NOT_ALLOWED.search(reason)):
        return PipelinesError(
            f"{place} does not allow {what} in namespace {namespace!r} (403): set cluster.namespace to a namespace of yours, or "
            "have its owner add you as a contributor."
        )
    if status >= 500 or status in {408, 429}:
        return UnavailableError(
            f"{place} has trouble of its own with {what} ({status}{said}): try again later, and look at its ml-pipeline pod."
        )
    if not is_json(headers) and not reason:  # refused uploads come as JSON that is called plain text
        return no_api(host)
    if status == 404:
        return NotFoundError(
            f"{what} is not at {place} (404), so it was deleted there: the same command makes it anew."
        )
    if status == 409:
        return AlreadyExistsError(
            f"{what} is at {place} already, but not for namespace {namespace!r} (409): rename or delete it."
        )
    return PipelinesError(f"{place} refused {what} ({status}{said}).")


def unanswered(error: Exception, host: str) -> UnavailableError:
    """From a request that came to no answer."""
    cause: BaseException = error
    while (deeper := getattr(cause, "reason", None) or cause.__cause__) and isinstance(deeper, BaseException):
        cause = deeper
    reason = type(cause).__name__
    if "Timeout" in reason:
        return UnavailableError(
            f"Kubeflow Pipelines at {redact_url(host)} did not answer in time: try again later, and look at its ml-pipeline pod."
        )
    if "SSL" in reason or "Certificate" in reason:
        return UnavailableError(
            f"{redact_url(host)} has a certificate that this machine does not trust: name its authority's file in SSL_CERT_FILE, "
            "or correct the address's scheme."
        )
    return UnavailableError(
        f"Kubeflow Pipelines cannot be reached at {redact_url(host)}: check --host, KFP_ENDPOINT or cluster.host, and, where "
        "`kubectl port-forward` leads there, that it still runs."
    )


def no_api(host: str) -> PipelinesError:
    """From an answer that only a page for people, a login or another server would give."""
    return PipelinesError(
        f"{redact_url(host)} answers, but not as the API of Kubeflow Pipelines: correct the address (behind Kubeflow's dashboard "
        "it ends in /pipeline), and where a login stands before it, put a token into KFP_TOKEN."
    )


def check_clock(headers: Mapping[str, str], host: str) -> None:
    """Compare this machine's clock with the server's.

    Raises:
        PipelinesError: they are too far apart.
    """
    try:
        there = parsedate_to_datetime(headers.get("Date") or "").timestamp()
    except ValueError:
        return
    ahead = time.time() - there
    if abs(ahead) > CLOCK_SECONDS:
        raise PipelinesError(
            f"the clock of this machine is {abs(ahead) / 60:.0f} minutes {'ahead of' if ahead > 0 else 'behind'} that of "
            f"{redact_url(host)}: set the one that is wrong (`timedatectl set-ntp true`), for tokens and the store's "
            "signatures are refused by it."
        )


def is_json(headers: Mapping[str, str]) -> bool:
    """Whether an answer is the API's."""
    return "json" in (headers.get("Content-Type") or "")


def _reason(body: str) -> str:
    """The API's own words, on one line; nothing else of an answer is shown."""
    try:
        said = json.loads(body)
        words = str(said.get("message") or said.get("error_message") or said.get("error") or "")
    except (ValueError, AttributeError):
        return ""
    line = " ".join(words.split()).rstrip(".")
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}…"
