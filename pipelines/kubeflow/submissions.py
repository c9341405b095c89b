"""Records of submitted runs, so that the same version, settings and data are submitted only once.

The store holds a record for each combination, claimed by a conditional put before the run starts. A record without a run belongs
to a submit that is in progress or was interrupted.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from mistere.artifacts.object_store import ABSENT, ConflictError, MissingObjectError, ObjectStore
from mistere.common.errors import MistereError
from mistere.runs.outcome import read_outcome
from pipelines.kubeflow.connection.failures import NotFoundError

if TYPE_CHECKING:
    from pipelines.kubeflow.connection.client import Pipelines

CLAIM_SECONDS: Final = 600
"""Age at which a record without a run counts as that of an interrupted submit."""
_FAILED: Final = frozenset({"FAILED", "CANCELED", "CANCELING"})


class Submission(BaseModel):
    """One submitted run.

    Attributes:
        run_id: of the run, in the store.
        kfp_run_id: of the run, in Kubeflow Pipelines; empty until it is started.
        submitted_at: seconds since 1970.
    """

    model_config = ConfigDict(extra="forbid")

    run_id: str
    kfp_run_id: str = ""
    version: str
    commit: str
    profile: str
    data_digest: str
    namespace: str
    submitted_at: float


@dataclass(frozen=True)
class Claim:
    """The record under a key as it was read, with the object's version, which a later write requires to be unchanged."""

    key: str
    submission: Submission | None
    version: str


def submission_key(digest: str) -> str:
    """The key of the record for a digest of version, settings and data."""
    return f"submissions/{digest}.json"


def read_claim(store: ObjectStore, digest: str) -> Claim:
    """Read the record; a damaged one counts as missing and is overwritten."""
    key = submission_key(digest)
    try:
        data, version = store.read(key)
    except MissingObjectError:
        return Claim(key, None, ABSENT)
    try:
        return Claim(key, Submission.model_validate_json(data), version)
    except ValidationError:
        return Claim(key, None, version)


def active_submission(pipelines: Pipelines, store: ObjectStore, claim: Claim) -> Submission | None:
    """The submission of a record, if its run is in progress or succeeded.

    Args:
        pipelines: the server.
        store: the object store.
        claim: the record.

    Returns:
        The submission with the id of its run; None without one, or if its run failed, was stopped or never started.

    Raises:
        MistereError: the submission is in progress.
    """
    submission = claim.submission
    if submission is None:
        return None
    if not submission.kfp_run_id:
        run = pipelines.run_by_name(submission.run_id)
        if run is None:
            age = time.time() - submission.submitted_at
            if (
                abs(age) < CLAIM_SECONDS
            ):  # another host may be ahead; a clock that was set back must not block it for longer
                raise MistereError(
                    f"the same run is already being submitted, since {max(age, 0.0):.0f} s (run {submission.run_id}): wait a moment and submit again, "
                    f"or, if that submit was interrupted, use --force; after {CLAIM_SECONDS // 60} minutes it counts as interrupted."
                )
            return None
    else:
        try:
            run = pipelines.run(submission.kfp_run_id)
        except NotFoundError:
            return submission if read_outcome(store, submission.run_id).verdict != "failed" else None
    if run.state in _FAILED:
        return None
    return submission.model_copy(update={"kfp_run_id": run.run_id})


def take(store: ObjectStore, claim: Claim, submission: Submission) -> Claim:
    """Write the record.

    Raises:
        MistereError: another submit wrote it since it was read.
    """
    try:
        version = store.write(claim.key, _text(submission), expected=claim.version)
    except ConflictError as error:
        raise MistereError("another submit of the same run is in progress: submit again to find that run.") from error
    return Claim(claim.key, submission, version)


def give_back(store: ObjectStore, before: Claim, claimed: Claim) -> None:
    """Restore the previous record, because no run was started."""
    if before.submission is None:
        store.delete_object(claimed.key)
    else:
        store.write(claimed.key, _text(before.submission), expected=claimed.version)


def _text(submission: Submission) -> bytes:
    return submission.model_dump_json(indent=1).encode()
