"""Following a run on a cluster until it ends: its steps' records in the store, and what only Kubeflow Pipelines knows."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import suppress
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final, NoReturn

from pydantic import ValidationError

from mistere.artifacts.object_store import MissingObjectError, ObjectStore, UnreachableError
from mistere.common.errors import MistereError
from mistere.engine.stage import StageRecord
from mistere.runs.outcome import TASKS, Outcome, read_outcome
from pipelines.cli.output.run_display import Display
from pipelines.kubeflow.failures import NotFoundError, PipelinesError, UnavailableError
from pipelines.kubeflow.pods import RunPods

if TYPE_CHECKING:
    from kfp_server_api import V2beta1Run

    from pipelines.kubeflow.client import Pipelines

_ENDED: Final = frozenset({"SUCCEEDED", "FAILED", "SKIPPED", "CANCELED"})
_LOOK_SECONDS: Final = 30.0
"""Between two looks at the pods; the first comes when a step has had time to start."""
_PATIENCE: Final = 600
"""Seconds without any answer from the server or the store after which following is given up; the run is not."""

_UNTOLD: Final = (
    "What kept a step from recording anything, its pods tell: `kubectl describe pods` in the run's namespace (an image, a quota, a "
    "machine that is lacking)."
)


def follow(
    pipelines: Pipelines,
    kfp_run_id: str,
    store: ObjectStore,
    run_id: str,
    every: float,
    look_every: float = _LOOK_SECONDS,
) -> Outcome:
    """Show a run's steps until it ends.

    Args:
        pipelines: the server.
        kfp_run_id: of the run, there.
        store: the object store.
        run_id: of the run, in the store.
        every: seconds between two looks at the run.
        look_every: seconds between two looks at its pods, where a kubeconfig leads to them.

    Raises:
        NotFoundError: it was deleted before it came to anything.
        MistereError: nobody answers any more, or the token has expired; or an interrupt: on a terminal the run is stopped if
            that is wanted.
    """
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    steps, pods = _Steps(store, run_id), RunPods(pipelines.namespace, kfp_run_id)
    looked = time.monotonic()
    try:
        with Display() as display:
            heard = time.monotonic()
            while True:
                try:
                    run = pipelines.run(kfp_run_id)
                    for event in [*steps.under_way(run), *steps.recorded()]:
                        display.show(event)
                    heard = time.monotonic()
                    if run.state in _ENDED:
                        break
                    if heard - looked > look_every:
                        for sentence in pods.new_problems():
                            display.say(sentence)
                        looked = time.monotonic()
                except NotFoundError:
                    outcome = read_outcome(store, run_id)
                    if outcome.verdict == "failed":
                        raise
                    return outcome  # it had ended, and was cleared away there
                except (PipelinesError, UnreachableError) as error:
                    passing = isinstance(error, UnavailableError | UnreachableError)
                    if not passing or time.monotonic() - heard > _PATIENCE:
                        raise MistereError(
                            f"{str(error).rstrip('.')}; run {run_id} goes on, and the same command follows it again."
                        ) from error
                time.sleep(every)
    except KeyboardInterrupt:
        _interrupted(pipelines, kfp_run_id, run_id)
    pods.new_problems()
    return _outcome(store, run_id, run, pods.problems)


class _Steps:
    """What has been shown of the steps."""

    def __init__(self, store: ObjectStore, run_id: str) -> None:
        self._store, self._prefix = store, f"runs/{run_id}/stages"
        self._seen: dict[str, str] = {}
        self._begun: set[str] = set()

    def under_way(self, run: V2beta1Run) -> list[dict[str, Any]]:
        """Events of the steps that the server says are running, and that were not shown yet."""
        events = []
        details = run.run_details.task_details if run.run_details else None
        for detail in details or []:
            task = task_of(detail.display_name or "")
            if detail.state == "RUNNING" and task in TASKS and task not in self._begun:
                self._begun.add(task)
                since = detail.start_time.timestamp() if detail.start_time else time.time()
                events.append({"event": "started", "task": task, "time": since})
        return events

    def recorded(self) -> list[dict[str, Any]]:
        """Events of the steps that have recorded their end, or another one after a retry."""
        events = []
        for key, version in self._store.versions(self._prefix):
            task = PurePosixPath(key).stem
            if self._seen.get(task) == version:
                continue
            self._seen[task] = version
            self._begun.add(task)
            with suppress(MissingObjectError, ValidationError):  # the outcome says which record is damaged
                record = StageRecord.model_validate_json(self._store.read(key)[0])
                events.append(
                    {
                        "event": record.status,
                        "task": task,
                        "time": record.started,
                        "seconds": record.seconds,
                        "message": record.message,
                    }
                )
        return sorted(events, key=lambda event: event["time"])


def task_of(display_name: str) -> str:
    """A step's name in the records from its name at the server.

    The second of two tasks of a stage is that of text: ``finetune-encoder-2``, or ``finetune-encoder (text)``.
    """
    name, _, said = display_name.partition(" ")
    stage = name.removesuffix("-2").replace("-", "_")
    modality = said.strip("()") or ("text" if name.endswith("-2") else "speech")
    return next((task for task in (stage, f"{stage}-{modality}") if task in TASKS), "")


def _outcome(store: ObjectStore, run_id: str, run: V2beta1Run, troubles: list[str]) -> Outcome:
    """How it ended; what kept a step from recording anything (an image, a quota, memory) only the server or its pods tell."""
    outcome = read_outcome(store, run_id)
    if run.state == "CANCELED":
        outcome.reasons.append("It was stopped.")
    elif run.state == "FAILED" and not any(record.status == "failed" for record in outcome.stages):
        outcome.reasons += [*_server_reasons(run), *troubles] or [_UNTOLD]
    return outcome


def _server_reasons(run: V2beta1Run) -> list[str]:
    details = (run.run_details.task_details if run.run_details else None) or []
    said = {f"{one.display_name}: {one.error.message}" for one in details if one.error and one.error.message}
    if not said and run.error and run.error.message:
        said = {run.error.message}
    return sorted(" ".join(sentence.split()) for sentence in said)


def _interrupted(pipelines: Pipelines, kfp_run_id: str, run_id: str) -> NoReturn:
    """Ask whether to stop the run; where nobody can answer, it goes on."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        answer = ""
        with suppress(EOFError, KeyboardInterrupt):
            answer = input(f"\nstop run {run_id} on the cluster? [y/N] ")
        if answer.strip().lower() in {"y", "yes"}:
            pipelines.stop(kfp_run_id)
            raise MistereError(
                f"run {run_id} is being stopped; what has finished is kept, and the next run goes on from there."
            )
    raise MistereError(
        f"interrupted; run {run_id} goes on: the same command follows it again, and {pipelines.page(kfp_run_id)} stops it "
        "(Terminate)."
    ) from None
