"""Who has submitted what: a record in the store for each version, settings and data, taken by a conditional put before the run.

The same submitted again finds the first. A record without a run is of a submit that is at work now, or that was cut off.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from mistere.artifacts.object_store import ABSENT, ConflictError, MissingObjectError, ObjectStore
from mistere.common.errors import MistereError
from mistere.runs.outcome import read_outcome
from pipelines.kubeflow.failures import NotFoundError

if TYPE_CHECKING:
    from pipelines.kubeflow.client import Pipelines

AT_WORK_SECONDS: Final = 600
"""How long a submit may be at work before its record without a run counts as one that was cut off."""
_FAILED: Final = frozenset({"FAILED", "CANCELED", "CANCELING"})


class Submission(BaseModel):
    """One submit.

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
    """The record under a key as it was read, with the version that a later write must still find."""

    key: str
    submission: Submission | None
    version: str


def submission_key(digest: str) -> str:
    """Where the record of what has that digest lies in the store."""
    return f"submissions/{digest}.json"


def read_claim(store: ObjectStore, digest: str) -> Claim:
    """Read the record; a damaged one counts as none, and is overwritten."""
    key = submission_key(digest)
    try:
        data, version = store.read(key)
    except MissingObjectError:
        return Claim(key, None, ABSENT)
    try:
        return Claim(key, Submission.model_validate_json(data), version)
    except ValidationError:
        return Claim(key, None, version)


def standing(pipelines: Pipelines, store: ObjectStore, claim: Claim) -> Submission | None:
    """The submission that the record tells of, if its run is going on or came to something.

    Args:
        pipelines: the server.
        store: the object store.
        claim: the record.

    Returns:
        It, with its run's id; None where there is none, or its run failed, was stopped or was never started.

    Raises:
        MistereError: it is just being submitted.
    """
    submission = claim.submission
    if submission is None:
        return None
    if not submission.kfp_run_id:
        run = pipelines.run_by_name(submission.run_id)
        if run is None:
            age = time.time() - submission.submitted_at
            if age < AT_WORK_SECONDS:
                raise MistereError(
                    f"the same is being submitted since {age:.0f} s ago (run {submission.run_id}): wait a moment and submit again, "
                    f"or, if that submit was cut off, use --force; after {AT_WORK_SECONDS // 60} minutes it counts as cut off."
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
    """Write the record, if nobody has since it was read.

    Raises:
        MistereError: somebody has.
    """
    try:
        version = store.write(claim.key, _text(submission), expected=claim.version)
    except ConflictError as error:
        raise MistereError(
            "the same is being submitted by somebody else at this moment: submit again, which finds that run."
        ) from error
    return Claim(claim.key, submission, version)


def give_back(store: ObjectStore, before: Claim, taken: Claim) -> None:
    """Put back what was there before a record was taken, for there will be no run."""
    if before.submission is None:
        store.delete_object(taken.key)
    else:
        store.write(taken.key, _text(before.submission), expected=taken.version)


def _text(submission: Submission) -> bytes:
    return submission.model_dump_json(indent=1).encode()
