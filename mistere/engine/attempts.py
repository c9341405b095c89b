"""The attempts of a step within one run, counted in the store.

Argo retries at several levels (the pod, and the DAGs around it), and the levels multiply: with KFP's stock limit of 2 a step
could start 81 times. Each step therefore counts its own attempts, and one more than ``cluster.steps.STEP.retries`` allows
ends at once. An attempt is counted when it starts, because a process that is killed records nothing at its end.
"""

from __future__ import annotations

import os
import secrets
import time

from pydantic import BaseModel, ValidationError

from mistere.artifacts.object_store import MissingObjectError, ObjectStore
from mistere.common.counting import counted
from mistere.common.environment import RETRIES_VARIABLE
from mistere.common.errors import DataError, MistereError, UsageError
from mistere.engine.stage import StageRecord, stage_record_key
from mistere.kubernetes.current_pod import pod_name


class AttemptsExhaustedError(MistereError):
    """The step was started as often as its retries allow.

    Attributes:
        explained: whether an earlier attempt recorded why it failed; otherwise all of them were killed.
    """

    def __init__(self, message: str, *, explained: bool) -> None:
        super().__init__(message)
        self.explained = explained


class Attempt(BaseModel):
    """A start of a step.

    Attributes:
        started: seconds since 1970.
        pod: the pod, or the host outside a cluster.
    """

    started: float
    pod: str


def begin_attempt(store: ObjectStore, run_id: str, record: StageRecord, setting: str) -> None:
    """Count an attempt of a step, or fail fast if another attempt cannot help or is one too many.

    Without :data:`~mistere.common.environment.RETRIES_VARIABLE`, as in a local run, attempts are not counted.

    Args:
        store: the object store.
        run_id: the run.
        record: the step's task and key.
        setting: the step's settings, as ``cluster.steps.STEP``.

    Raises:
        DataError: an earlier attempt of this step in this run failed because of the data.
        UsageError: an earlier attempt failed because of a setting.
        AttemptsExhaustedError: all attempts were used.
    """
    before = _earlier_failure(store, run_id, record)
    for kind in (DataError, UsageError):
        if before is not None and before.exit_code == kind.exit_code:
            raise kind(before.message)
    retries = os.environ.get(RETRIES_VARIABLE, "")
    if not retries.isdecimal():
        return
    folder = _folder(run_id, record)
    keys = sorted(store.keys(folder))
    if len(keys) > int(retries):
        if before is not None and before.exhausted:
            raise AttemptsExhaustedError(before.message, explained=before.explained)
        raise _exhausted(record.task, setting, _read(store, keys), before)
    attempt = Attempt(started=time.time(), pod=pod_name())
    name = f"{int(attempt.started * 1000):015d}-{secrets.token_hex(4)}"
    store.write(f"{folder}/{name}.json", attempt.model_dump_json().encode())


def forget_attempts(store: ObjectStore, run_id: str, record: StageRecord) -> None:
    """Delete the attempts of a step that has finished, because a retried DAG runs its finished steps again."""
    if os.environ.get(RETRIES_VARIABLE):
        store.delete(_folder(run_id, record))


def _folder(run_id: str, record: StageRecord) -> str:
    return f"runs/{run_id}/attempts/{record.task}/{record.key}"


def _earlier_failure(store: ObjectStore, run_id: str, record: StageRecord) -> StageRecord | None:
    """The record of the last attempt of this step in this run that recorded a failure."""
    try:
        before = StageRecord.unsealed(store.read(stage_record_key(run_id, record.task))[0])
    except MissingObjectError:
        return None
    return before if before is not None and (before.status, before.key) == ("failed", record.key) else None


def _read(store: ObjectStore, keys: list[str]) -> list[Attempt]:
    attempts = []
    for key in keys:
        try:
            attempts.append(Attempt.model_validate_json(store.read(key)[0]))
        except (MissingObjectError, ValidationError):
            attempts.append(Attempt(started=0.0, pod=""))
    return attempts


def _exhausted(task: str, setting: str, attempts: list[Attempt], before: StageRecord | None) -> AttemptsExhaustedError:
    started = f"{task} was started {counted(len(attempts), 'time')} in this run, as often as {setting}.retries allows"
    again = "start the run again, which finds the finished steps"
    if before is not None:
        reason = before.message.strip().rstrip(".")
        return AttemptsExhaustedError(
            f"{started}; its last reason: {reason}. When that is resolved, {again}.", explained=True
        )
    pod = attempts[-1].pod or "POD"
    return AttemptsExhaustedError(
        f"{started}, and every attempt was killed before it could say why (out of memory, evicted, its node lost): look at "
        f"kubectl describe pod {pod}, raise {setting}.memory if it says OOMKilled, and {again}.",
        explained=False,
    )
