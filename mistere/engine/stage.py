"""The types around a stage: its declaration, the context of an execution, its result and its record."""

from __future__ import annotations

import importlib
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field

from mistere.artifacts.checkpoints import Checkpoints
from mistere.artifacts.identities import RunIdentity
from mistere.artifacts.manifest import Manifest
from mistere.artifacts.object_store import ObjectStore
from mistere.artifacts.sealed_record import SealedRecord
from mistere.artifacts.usage import Usage
from mistere.common.names import OneLine, Segment
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
        inputs_digest: digest of everything that determines the keys of the run's cached steps, computed by ``resolve_inputs``; empty
            where it is unknown.
        uncommitted: the files with uncommitted changes, as a sentence names them; empty where there are none or they are unknown.
    """

    run_id: Segment
    store: str
    tracking_uri: str
    data_remote: OneLine = ""
    data_digest: str = ""
    inputs_digest: str = ""
    uncommitted: OneLine = ""

    @property
    def code_state(self) -> str:
        """The state of the code as the release gate takes it: a word and, where they are known, the files with uncommitted changes."""
        if not self.commit:
            return "unknown"
        return f"uncommitted{f': {self.uncommitted}' if self.uncommitted else ''}" if self.dirty else "committed"

    @property
    def identity(self) -> RunIdentity:
        """The run's identity alone."""
        return RunIdentity.model_validate(self.model_dump(include=set(RunIdentity.model_fields)))


def new_run_id() -> str:
    """An id for a run that a person starts: UTC time to the second and four random hexadecimal digits."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"


@dataclass(frozen=True)
class Stage:
    """The declaration of a stage: what the engine must know before it imports anything heavy.

    Attributes:
        name: the folder under ``components/``.
        config: class of its slice of the configuration.
        inputs: artifact kinds by argument name.
        many: inputs that take a list of artifacts.
        by_modality: inputs that take an artifact of each modality, as a mapping.
        sharded: whether several tasks split its work.
        outputs: artifact kinds by argument name.
        imports: heavy modules that every execution needs. The engine imports them first and records the time as import time.
        cached: False for a stage that acts on the outside world, which always runs.
        reports: by output, files that are copied to the run's reports, also if the step was reused.
        preflight: checks the settings of a modality before the first stage of a run, so that nothing is computed in vain; called with
            the configuration, the modality, and whether the stage runs where the caller does.
        external_inputs: computes digests of what the configuration only names (a folder, a package, a remote) for the key.
    """

    name: str
    config: type[Section]
    inputs: Mapping[str, type[Manifest]] = field(default_factory=dict)
    many: frozenset[str] = frozenset()
    by_modality: frozenset[str] = frozenset()
    sharded: bool = False
    outputs: Mapping[str, type[Manifest]] = field(default_factory=dict)
    imports: tuple[str, ...] = ()
    cached: bool = True
    reports: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    external_inputs: Callable[[Any, RunContext], Mapping[str, str]] | None = None
    preflight: Callable[[Any, str, bool], None] | None = None


def load_stage(name: str) -> Stage:
    """The declaration of a stage, by the name of its folder."""
    stage: Stage = importlib.import_module(f"components.{name}.run").STAGE
    return stage


@dataclass(frozen=True)
class TaskShard:
    """One of ``of`` tasks that split the work of a stage; ``index`` counts from 0."""

    index: int
    of: int

    @classmethod
    def parse(cls, item: Mapping[str, Any]) -> TaskShard:
        """Parse an item of the pipeline's loop, in which every number is a float."""
        return cls(int(item["index"]), int(item["of"]))


@dataclass
class ImportClock:
    """Seconds spent importing, which do not count as the stage's own work."""

    seconds: float = 0.0


@dataclass(frozen=True)
class Step:
    """One execution of a stage, passed to its ``run``."""

    task: str
    key: str
    run: RunContext
    store: ObjectStore
    progress: Progress
    checkpoints: Checkpoints
    imports: ImportClock = field(default_factory=ImportClock)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Context for imports that only some executions need; their time is recorded as import time."""
        clock = time.perf_counter()
        try:
            yield
        finally:
            self.imports.seconds += time.perf_counter() - clock

    def report(self, name: str, path: Path) -> None:
        """Upload a report under the run's id immediately, so that it survives a later failure."""
        self.store.upload(path, f"runs/{self.run.run_id}/reports/{name}")


@dataclass(frozen=True)
class Result:
    """The result of a stage's ``run``.

    Attributes:
        manifests: one for each output.
        values: plain values, for the pipeline's conditions.
        on_published: called after the outputs are published; its return value is merged into `values`.
    """

    manifests: Mapping[str, Manifest] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)
    on_published: Callable[[Mapping[str, Manifest]], Mapping[str, str]] | None = None


class StageRecord(SealedRecord):
    """Status, time and outputs of one task of a run.

    Attributes:
        usage: what the task used; zeros in records of earlier releases.
        inputs_digest: of the run's context. It differs within a run if a repeated or cloned run resolved other inputs.
        exhausted: the task failed because all its attempts were used.
        explained: False if the attempts were used and none of them recorded why it failed; all of them were killed then.
    """

    model_config = ConfigDict(frozen=False)

    task: Segment
    stage: Segment
    status: str
    key: Segment = ""
    started: float
    seconds: float = 0.0
    compute_seconds: float = 0.0
    import_seconds: float = 0.0
    peak_memory_mb: float = 0.0
    usage: Usage = Usage()
    outputs: dict[str, str] = Field(default_factory=dict)
    values: dict[str, str] = Field(default_factory=dict)
    exit_code: int = 0
    message: str = ""
    inputs_digest: str = ""
    exhausted: bool = False
    explained: bool = True


def stage_record_key(run_id: str, task: str) -> str:
    """Key of a task's record in the store."""
    return f"runs/{run_id}/stages/{task}.json"
