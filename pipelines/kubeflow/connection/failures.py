"""Errors of Kubeflow Pipelines, each as one sentence that says how to fix it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from mistere.common.errors import MistereError
from mistere.common.parsing.documents import load_json
from mistere.common.urls import redact_url
from pipelines.kubeflow.connection.token import Token, explain_refusal

CLOCK_SECONDS = 300
"""Largest difference between this machine's clock and the server's; beyond it, tokens and S3 signatures are refused."""

_LONGEST_REASON = 300


class PipelinesError(MistereError):
    """A request to Kubeflow Pipelines failed.

    Attributes:
        status: the HTTP status; 0 without an answer.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class NotFoundError(PipelinesError):
    """The object does not exist, or was deleted."""


class AlreadyExistsError(PipelinesError):
    """The object exists already."""


class UnavailableError(PipelinesError):
    """A retry may succeed: no answer, an error of the server (the request may have taken effect), or a 401 for a valid token."""


def refused(
    status: int, headers: Mapping[str, str], body: str, what: str, host: str, namespace: str, token: Token | None
) -> PipelinesError:
    """The error for an answer with an error status.

    Args:
        status: the HTTP status.
        headers: of the answer.
        body: of the answer.
        what: the object of the request, as the subject of a sentence.
        host: of Kubeflow Pipelines.
        namespace: of the runs.
        token: the token of the request.
    """
    server, reason = f"Kubeflow Pipelines at {redact_url(host)}", _reason(body)
    detail = f": {reason}" if reason else ""
    if status == 401:
        sentence, temporary = explain_refusal(server, token, namespace)
        return (UnavailableError if temporary else PipelinesError)(sentence, status)
    if status == 403:
        return PipelinesError(
            f"{server} does not allow {what} in namespace {namespace!r} (403): set cluster.namespace to a namespace of yours, or "
            "have its owner add you (Manage Contributors).",
            status,
        )
    if status >= 500 or status in {408, 429}:
        return UnavailableError(
            f"{server} failed to process {what} ({status}{detail}): try again later, and check the log of its ml-pipeline pod.",
            status,
        )
    if not is_json(headers) and not reason:  # a refused upload is JSON with the content type of plain text
        return no_api(host)
    if status == 404:
        return NotFoundError(
            f"{what} does not exist at {server} (404), so it was deleted there: run the same command again to create it.",
            status,
        )
    if status == 409:
        return AlreadyExistsError(
            f"{what} exists at {server} already, outside namespace {namespace!r} (409): rename or delete it.", status
        )
    return PipelinesError(
        f"{server} refused {what} ({status}{detail}): correct what it names, or look at the log of its ml-pipeline pod.",
        status,
    )


def upload_refused(error: PipelinesError, what: str, host: str, namespace: str) -> PipelinesError:
    """The error for a refused upload by an account that may create versions; the server does not say more than that.

    Args:
        error: the server's answer.
        what: what was uploaded.
        host: address of the server.
        namespace: of Kubeflow Pipelines itself.
    """
    return PipelinesError(
        f"Kubeflow Pipelines at {redact_url(host)} refused the package of {what} (400), although the account may create it: the package is "
        "larger than the server accepts, or the server is older than 2.17; "
        f"`kubectl --namespace {namespace} logs deployment/ml-pipeline` has the reason.",
        error.status,
    )


def unanswered(error: Exception, host: str) -> UnavailableError:
    """The error for a request without an answer."""
    cause: BaseException = error
    while (deeper := getattr(cause, "reason", None) or cause.__cause__) and isinstance(deeper, BaseException):
        cause = deeper
    reason = type(cause).__name__
    if "Timeout" in reason:
        return UnavailableError(
            f"Kubeflow Pipelines at {redact_url(host)} did not answer in time: try again later, and check its ml-pipeline pod."
        )
    if "SSL" in reason or "Certificate" in reason:
        return UnavailableError(
            f"{redact_url(host)} has a certificate that this machine does not trust: set SSL_CERT_FILE to the file of its authority, "
            "or correct the scheme of the address."
        )
    return UnavailableError(
        f"Kubeflow Pipelines cannot be reached at {redact_url(host)}: check --host, KFP_ENDPOINT or cluster.host, and the VPN "
        "or `kubectl port-forward` that leads there."
    )


def no_api(host: str) -> PipelinesError:
    """The error for an answer that is not the API's: a web page, a login, another server."""
    return PipelinesError(
        f"{redact_url(host)} answers, but not as the API of Kubeflow Pipelines: correct the address (behind Kubeflow's dashboard "
        "it ends in /pipeline); if a login protects it, put a token into KFP_TOKEN."
    )


def check_clock(headers: Mapping[str, str], host: str, tolerance: float = CLOCK_SECONDS) -> None:
    """Compare this machine's clock with the server's.

    Raises:
        PipelinesError: they differ by more than ``tolerance`` seconds.
    """
    try:
        server_time = parsedate_to_datetime(headers.get("Date") or "").timestamp()
    except ValueError:
        return
    ahead = time.time() - server_time
    if abs(ahead) > tolerance:
        raise PipelinesError(
            f"the clock of this machine is {abs(ahead) / 60:.0f} minutes {'ahead of' if ahead > 0 else 'behind'} that of "
            f"{redact_url(host)}: correct the wrong one (`timedatectl set-ntp true`); tokens and S3 signatures are refused "
            "otherwise."
        )


def is_json(headers: Mapping[str, str]) -> bool:
    """Whether an answer is JSON, as the API's answers are."""
    return "json" in (headers.get("Content-Type") or "")


def _reason(body: str) -> str:
    """The API's error message on one line; nothing else of an answer is shown."""
    try:
        answer = load_json(body)
        words = str(answer.get("message") or answer.get("error_message") or answer.get("error") or "")
    except (ValueError, AttributeError):
        return ""
    line = " ".join(words.split()).rstrip(".")
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}…"
