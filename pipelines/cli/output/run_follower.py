"""Follow a run on a cluster until it ends, by its records and progress in the store and its state in Kubeflow Pipelines."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import suppress
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final, NoReturn

from mistere.artifacts.object_store import MissingObjectError, ObjectStore, UnreachableError
from mistere.common.errors import Interrupted, MistereError
from mistere.config.modalities import DEFAULT_MODALITIES
from mistere.config.stages import task_title
from mistere.engine.live_progress import ProgressReader
from mistere.engine.stage import StageRecord
from mistere.runs.outcome import Outcome, note_stop, read_outcome
from mistere.runs.tasks import base_task
from pipelines.cli.output.run_display import Display
from pipelines.kubeflow.connection.failures import NotFoundError, PipelinesError, UnavailableError
from pipelines.kubeflow.runs.pods import RunPods

if TYPE_CHECKING:
    from kfp_server_api import V2beta1Run

    from pipelines.kubeflow.connection.client import Pipelines

_ENDED: Final = frozenset({"SUCCEEDED", "FAILED", "SKIPPED", "CANCELED"})
_STOPPING: Final = frozenset({"CANCELING", "CANCELED"})
"""States of a run that somebody stopped. Kubeflow Pipelines 2.17 ends it as FAILED."""
_POD_CHECK_SECONDS: Final = 30.0
"""Seconds between two checks of the pods; the first check leaves a step time to start."""
_RESPONSE_TIMEOUT: Final = 600
"""Seconds without a response from the server or the store after which following stops; the run itself continues."""

_REPORT_SECONDS: Final = 60.0
"""Seconds between two reports of the running steps."""


def follow(
    pipelines: Pipelines,
    kfp_run_id: str,
    store: ObjectStore,
    run_id: str,
    every: float,
    look_every: float = _POD_CHECK_SECONDS,
    report_every: float = _REPORT_SECONDS,
) -> Outcome:
    """Show a run's steps until it ends.

    Args:
        pipelines: client of Kubeflow Pipelines.
        kfp_run_id: id of the run in Kubeflow Pipelines.
        store: the object store.
        run_id: id of the run in the store.
        every: seconds between two requests for the run's state.
        look_every: seconds between two checks of its pods, if a kubeconfig gives access to them.
        report_every: seconds between two reports of how far the running steps are.

    Raises:
        NotFoundError: the run was deleted before it recorded a result.
        Interrupted: the command was interrupted; on a terminal the user can choose to stop the run.
        MistereError: the server or the store no longer responds, or the token has expired.
    """
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    steps, pods = _Steps(store, run_id), RunPods(pipelines.namespace, kfp_run_id)
    last_check = last_report = time.monotonic()
    stop_noted = False
    try:
        with Display(starts=True) as display:
            last_response = time.monotonic()
            while True:
                try:
                    run = pipelines.run(kfp_run_id, patient=False)
                    for event in steps.events(run):
                        display.show(event)
                    if run.state in _STOPPING and not stop_noted:
                        note_stop(store, run_id)
                        stop_noted = True
                    last_response = time.monotonic()
                    if run.state in _ENDED:
                        break
                    if last_response - last_check > look_every:
                        for sentence in pods.new_problems():
                            display.say(sentence)
                        last_check = time.monotonic()
                    if last_response - last_report > report_every:
                        display.report_running()
                        last_report = last_response
                except NotFoundError:
                    outcome = read_outcome(store, run_id)
                    if outcome.verdict == "failed":
                        raise
                    return outcome  # it had ended, and was then deleted from the server
                except (PipelinesError, UnreachableError) as error:
                    transient = isinstance(error, UnavailableError | UnreachableError)
                    if not transient or time.monotonic() - last_response > _RESPONSE_TIMEOUT:
                        raise MistereError(
                            f"{str(error).rstrip('.')}; run {run_id} continues, and the same command follows it again."
                        ) from error
                time.sleep(every)
    except KeyboardInterrupt:
        _interrupted(pipelines, kfp_run_id, store, run_id)
    pods.new_problems(final=True)
    return _outcome(store, run_id, run, pods)


class _Steps:
    """Tracks which events of the steps have been shown."""

    def __init__(self, store: ObjectStore, run_id: str) -> None:
        self._store, self._prefix = store, f"runs/{run_id}/stages"
        self._progress = ProgressReader(store, run_id)
        self._seen: dict[str, str] = {}
        self._begun: set[str] = set()
        self._running: set[str] = set()
        self._ended: dict[str, float] = {}

    def events(self, run: V2beta1Run) -> list[dict[str, Any]]:
        """What is new, in the order in which it is shown."""
        return [*self._reported(run), *self._in_progress(), *self._recorded()]

    def _reported(self, run: V2beta1Run) -> list[dict[str, Any]]:
        """Events of steps that the server reports as running and that were not shown yet."""
        events = []
        details = run.run_details.task_details if run.run_details else None
        for detail in details or []:
            task = task_of(detail.display_name or "")
            if detail.state == "RUNNING" and task and task not in self._begun:
                since = detail.start_time.timestamp() if detail.start_time else time.time()
                events.append(self._start(task, since))
        return events

    def _in_progress(self) -> list[dict[str, Any]]:
        """Events of steps that have reported their progress."""
        events = []
        for live in self._progress.changed():
            if live.updated <= self._ended.get(live.task, 0.0):
                continue  # of an attempt that has ended
            if live.task not in self._running:
                events.append(self._start(live.task, live.started))
            if live.message:
                events.append(
                    {
                        "event": "progress",
                        "task": live.task,
                        "time": live.updated,
                        "message": live.message,
                        "done": live.done,
                        "total": live.total,
                    }
                )
        return events

    def _start(self, task: str, since: float) -> dict[str, Any]:
        self._begun |= {task, base_task(task)}
        self._running.add(task)
        return {"event": "started", "task": task, "time": since}

    def _recorded(self) -> list[dict[str, Any]]:
        """Events of steps with a new stage record: the first one, or another one after a retry."""
        events = []
        for key, version in self._store.versions(self._prefix):
            task = PurePosixPath(key).stem
            if self._seen.get(task) == version:
                continue
            self._seen[task] = version
            self._begun |= {task, base_task(task)}
            with suppress(MissingObjectError):
                record = StageRecord.unsealed(self._store.read(key)[0])
                if record is None:
                    continue  # the outcome reports that it is damaged
                self._ended[task] = record.started + record.seconds
                self._running.discard(task)  # a further attempt starts again
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
    """Map a step's display name on the server to its task name in the records.

    A task of a modality is ``finetune-encoder (text)``, that of a student ``embed-shard (text, student)``; an earlier release had ``finetune-encoder`` and ``finetune-encoder-2``.
    """
    name, _, suffix = display_name.partition(" ")
    stage = name.removesuffix("-2").replace("-", "_")
    modality = suffix.strip("()").replace(", ", "-") or DEFAULT_MODALITIES[name.endswith("-2")]
    return next((task for task in (stage, f"{stage}-{modality}") if task_title(task)), "")


def _outcome(store: ObjectStore, run_id: str, run: V2beta1Run, pods: RunPods) -> Outcome:
    """Outcome of the run; if no step recorded a reason, the cluster may know it."""
    outcome = read_outcome(store, run_id)
    if outcome.unexplained and (run.state in _STOPPING or pods.stopped):
        note_stop(store, run_id)
        outcome = read_outcome(store, run_id)
    if outcome.unexplained and run.state == "FAILED":
        outcome.reasons += pods.problems or [
            f"No step recorded why: `{pods.command}` shows which pod failed, and `kubectl logs` of that pod its reason."
        ]
    return outcome


def _interrupted(pipelines: Pipelines, kfp_run_id: str, store: ObjectStore, run_id: str) -> NoReturn:
    """Ask whether to stop the run; without a terminal, it continues."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        answer = ""
        with suppress(EOFError, KeyboardInterrupt):
            answer = input(f"\nstop run {run_id} on the cluster? [y/N] ")
        if answer.strip().lower() in {"y", "yes"}:
            pipelines.stop(kfp_run_id)
            with suppress(MistereError):  # it stops anyway; the note is for later readers
                note_stop(store, run_id)
            raise Interrupted(f"run {run_id} is being stopped; finished steps are kept, and the next run reuses them.")
    raise Interrupted(
        f"interrupted; run {run_id} continues: the same command follows it again, and {pipelines.pages.address(kfp_run_id)} stops it "
        "(Terminate)."
    ) from None
