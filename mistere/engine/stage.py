"""What a stage is, to the engine and to itself: its declaration, one execution of it, its answer, and its record."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mistere.artifacts.checkpoints import Checkpoints
from mistere.artifacts.identities import RunIdentity
from mistere.artifacts.manifests import Manifest
from mistere.artifacts.object_store import ObjectStore
from mistere.common.errors import UsageError
from mistere.common.progress import Progress
from mistere.config.base import Section


class RunContext(RunIdentity):
    """A run's identity and where its stages find things. Nothing in it changes what a stage computes.

    Attributes:
        run_id: names the run in the store.
        store: the object store.
        tracking_uri: MLflow.
        data_remote: the DVC remote, in DVC's own spelling.
        data_digest: the dataset's DVC digest, resolved when the run was started.
    """

    run_id: str
    store: str
    tracking_uri: str
    data_remote: str = ""
    data_digest: str = ""

    @property
    def identity(self) -> RunIdentity:
        """The run's identity alone."""
        return RunIdentity.model_validate(self.model_dump(include=set(RunIdentity.model_fields)))


def new_run_id() -> str:
    """An id for a run that somebody starts: when, to the second, and a little chance."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"


def job_context(run: Mapping[str, Any], job: str) -> dict[str, Any]:
    """The context of the run that is going on, as plain data.

    Every run of a schedule is handed the same context: what tells them apart is the id that Kubeflow Pipelines gives each.

    Args:
        run: the context that the pipeline was handed.
        job: the id that Kubeflow Pipelines, or kfp's local runner, gave this run.

    Raises:
        UsageError: a scheduled run that was not told its id.
    """
    context = RunContext.model_validate(dict(run))
    if not context.schedule:
        return context.model_dump(mode="json")
    if not job or "{" in job:
        raise UsageError(
            "this Kubeflow Pipelines does not tell a run its id, which a scheduled run needs: bring it to 2.0.2 or later."
        )
    return context.model_copy(update={"run_id": f"{context.run_id}-{job}"}).model_dump(mode="json")


@dataclass(frozen=True)
class Stage:
    """What the engine must know of a stage before it imports anything heavy.

    Attributes:
        name: the folder under ``components/``.
        config: the slice of the configuration it is handed.
        inputs: artifact kinds by argument name.
        many: the inputs of which it takes any number.
        sharded: whether several tasks share its work.
        outputs: artifact kinds by argument name.
        imports: heavy modules that every execution needs, imported ahead so that their cost is counted as what it is.
        cached: False for a stage that acts on the world outside.
        reports: by output, the files that are kept under the run's id as well, also when the step was found finished.
        external_inputs: digests of what the configuration only names (a folder, a package, a remote), which belong to the key.
    """

    name: str
    config: type[Section]
    inputs: Mapping[str, type[Manifest]] = field(default_factory=dict)
    many: frozenset[str] = frozenset()
    sharded: bool = False
    outputs: Mapping[str, type[Manifest]] = field(default_factory=dict)
    imports: tuple[str, ...] = ()
    cached: bool = True
    reports: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    external_inputs: Callable[[Any, RunContext], Mapping[str, str]] | None = None


@dataclass(frozen=True)
class TaskShard:
    """One of ``of`` tasks that share the work of a stage, counted from 0."""

    index: int
    of: int

    @classmethod
    def parse(cls, item: Mapping[str, Any]) -> TaskShard:
        """From what the pipeline's loop hands over, where every number is a float."""
        return cls(int(item["index"]), int(item["of"]))


@dataclass
class ImportClock:
    """Seconds spent importing, which are not the stage's own work."""

    seconds: float = 0.0


@dataclass(frozen=True)
class Step:
    """One execution of a stage, as its ``run`` sees it."""

    task: str
    key: str
    run: RunContext
    store: ObjectStore
    progress: Progress
    checkpoints: Checkpoints
    imports: ImportClock = field(default_factory=ImportClock)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Around imports that only some executions need, so that their cost is counted as what it is."""
        clock = time.perf_counter()
        try:
            yield
        finally:
            self.imports.seconds += time.perf_counter() - clock

    def report(self, name: str, path: Path) -> None:
        """Keep a report under the run's id at once, so that it survives whatever happens next."""
        self.store.upload(path, f"runs/{self.run.run_id}/reports/{name}")


@dataclass(frozen=True)
class Result:
    """What a stage's ``run`` answers.

    Attributes:
        manifests: one for each output.
        values: plain values, for the pipeline's conditions.
        on_published: called after the outputs are published; its return value is merged into `values`.
    """

    manifests: Mapping[str, Manifest] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)
    on_published: Callable[[Mapping[str, Manifest]], Mapping[str, str]] | None = None


class StageRecord(BaseModel):
    """What happened to one task of a run."""

    task: str
    stage: str
    status: str
    key: str = ""
    started: float
    seconds: float = 0.0
    compute_seconds: float = 0.0
    import_seconds: float = 0.0
    peak_memory_mb: float = 0.0
    outputs: dict[str, str] = {}
    values: dict[str, str] = {}
    exit_code: int = 0
    message: str = ""


def stage_record_key(run_id: str, task: str) -> str:
    """Where a task's record lies in the store."""
    return f"runs/{run_id}/stages/{task}.json"
