"""Runs whose cached steps are all finished: one pod takes their results over, instead of two pods for each step.

The parameters of a run, its data, the champion and the code determine the keys of its steps. A digest of them leads to the
records of the steps of an earlier run (``finished/<digest>.json``). The records are only a hint: each step is looked up by its
own key, as if it were executed, so after a purge, or with a damaged artifact, the run goes the ordinary way.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

from mistere.artifacts.object_store import MissingObjectError, ObjectStore
from mistere.artifacts.sealed_record import SealedRecord
from mistere.common.progress import Progress
from mistere.engine.execution import keep_reports, write_record
from mistere.engine.finished_steps import find_finished
from mistere.engine.stage import RunContext, StageRecord, load_stage

AFFECTS_RESULTS = False

INPUTS_VALUE: Final = "inputs"
"""The value of ``resolve_inputs`` that holds the digest; empty where it is unknown."""
_FINISHED: Final = frozenset({"done", "reused"})


class FinishedRun(SealedRecord):
    """The records of all cached steps of a run.

    Attributes:
        run_id: the run that wrote them.
        records: in the order of the pipeline.
    """

    run_id: str
    records: list[StageRecord]

    def values(self, task: str) -> dict[str, str]:
        """The values of a task; empty if the run did not reach it."""
        return next((record.values for record in self.records if record.task == task), {})

    def outputs(self) -> dict[str, dict[str, str]]:
        """Digests of the artifacts, by task and output."""
        return {record.task: record.outputs for record in self.records}


def remember(store: ObjectStore, run_id: str, digest: str, records: Iterable[StageRecord]) -> None:
    """Store the records of a run that needed no further cached step.

    Args:
        store: the object store.
        run_id: of the run.
        digest: of everything that determines its steps' keys.
        records: of the run's tasks; those of stages that are not cached are left out.
    """
    cached = [record for record in records if record.status in _FINISHED and load_stage(record.stage).cached]
    run = FinishedRun(run_id=run_id, records=cached)
    store.write(_key(digest), run.sealed())


def take_over(store: ObjectStore, context: RunContext, digest: str) -> FinishedRun | None:
    """Reuse the steps of an earlier run with the same digest, if each of them is still found finished.

    Args:
        store: the object store.
        context: of the current run, under whose id the steps are recorded as reused.
        digest: of everything that determines the steps' keys.

    Returns:
        The earlier run; None if there is none, or if one of its steps has to be executed.
    """
    try:
        run = FinishedRun.unsealed(store.read(_key(digest))[0])
    except MissingObjectError:
        return None
    if run is None:
        return None
    reused = []
    for record in run.records:
        stage = load_stage(record.stage)
        finished = find_finished(stage, store, record.key, Progress(record.task))
        if finished is None:
            return None
        manifests, values = finished
        outputs = {name: manifest.digest for name, manifest in manifests.items()}
        taken = StageRecord(
            task=record.task,
            stage=record.stage,
            status="reused",
            key=record.key,
            started=time.time(),
            outputs=outputs,
            values=values,
            inputs_digest=digest,
        )
        reused.append((stage, manifests, taken))
    for stage, manifests, record in reused:
        keep_reports(stage, context, store, manifests)
        write_record(store, context, record)
    return FinishedRun(run_id=run.run_id, records=[record for *_, record in reused])


def has_finished(store: ObjectStore, digest: str) -> bool:
    """Whether a run with this digest finished all its cached steps; a purge may have deleted their results since."""
    return store.exists(_key(digest))


def _key(digest: str) -> str:
    return f"finished/{digest}.json"
