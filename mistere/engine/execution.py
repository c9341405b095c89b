"""The engine around every stage: reuse a finished step by its key, or run it, publish its outputs and record it.

A step's key covers the stage, its slice of the configuration, the digests of its inputs, the digest of its code and of the
lock file and, if the result depends on external state, a digest of that state. A record under the key names the output
artifacts. A step with a record whose artifacts verify is not run again, on this machine or another.

The status of every task is also recorded under the run's id (``runs/<run>/stages/<task>.json``), after a failure too. The
run report and ``--wait`` read these records.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mistere.artifacts.checkpoints import Checkpoints
from mistere.artifacts.identities import RunIdentity
from mistere.artifacts.io import (
    MANIFEST,
    ArtifactHandle,
    artifact_key,
    open_artifact,
    publish,
)
from mistere.artifacts.manifest import MadeBy, Manifest, canonical_digest
from mistere.artifacts.object_store import LocalStore, MissingObjectError, ObjectStore, StoreError, open_store
from mistere.artifacts.usage import total_usage
from mistere.common.digests.code import git_state, source_digest
from mistere.common.errors import ArtifactError, ExitCode, MistereError, UsageError
from mistere.common.os_errors import disk_error
from mistere.common.processes.run_locks import end_with_runner
from mistere.common.processes.standard_streams import guard_streams
from mistere.common.processes.threads import limit_spinning
from mistere.common.progress import emit
from mistere.common.secrets.redaction import redact
from mistere.config.base import Section
from mistere.config.stages import STUDENT_SUFFIX
from mistere.engine.attempts import AttemptsExhaustedError, begin_attempt, forget_attempts
from mistere.engine.finished_steps import find_finished, remember
from mistere.engine.live_progress import StoredProgress
from mistere.engine.stage import Result, RunContext, Stage, StageRecord, Step, TaskShard, stage_record_key
from mistere.engine.usage_meter import UsageMeter, peak_memory_mb
from mistere.kubernetes.secret_keys import use_storage_variables

Paths = str | Sequence[str] | Mapping[str, str]
"""Folders of an input's artifacts: one, several, or one of each modality."""
_Opened = ArtifactHandle[Any] | list[ArtifactHandle[Any]] | dict[str, ArtifactHandle[Any]]


def step_key(
    stage: Stage,
    config: Section,
    inputs: Mapping[str, str],
    external_inputs: Mapping[str, str],
    code: str,
    modality: str = "",
    shard: TaskShard | None = None,
) -> str:
    """The key of a step, as the module's docstring describes it."""
    return canonical_digest(
        {
            "stage": stage.name,
            "modality": modality,
            "shard": [shard.index, shard.of] if shard else None,
            "config": config.keyed(),
            "inputs": dict(inputs),
            "world": dict(external_inputs),
            "code": code,
        }
    )


def read_reference(path: str | Path, cls: type[Manifest]) -> str:
    """The digest of the artifact whose manifest an upstream task wrote to ``path``.

    Raises:
        ArtifactError: there is no valid manifest of this kind.
    """
    try:
        manifest = cls.model_validate_json((Path(path) / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise ArtifactError(
            f"{path} holds no {cls.__name__}: the task before this one did not finish; see its log, then run again."
        ) from error
    return manifest.digest


def execute(
    stage: Stage,
    run: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    inputs: Mapping[str, Paths] | None = None,
    outputs: Mapping[str, str] | None = None,
    external_inputs: Mapping[str, str] | None = None,
    modality: str = "",
    shard: TaskShard | None = None,
    pod_of: str = "",
    student: bool = False,
) -> Mapping[str, str]:
    """Run one task of the pipeline, or reuse its finished outputs.

    Args:
        stage: the stage.
        run: the :class:`RunContext` as plain data.
        config: the stage's slice of the configuration, as plain data.
        inputs: folders with the input artifacts' manifests, by argument name; a list if the stage takes several, or a mapping if it
            takes one of each modality.
        outputs: folders for the output artifacts' manifests, by argument name.
        external_inputs: digests of external state that the result depends on; passed to the stage by name.
        modality: for stages that run once per modality; passed to the stage.
        shard: for stages that split their work; passed to the stage.
        pod_of: the stage whose settings the pod has, where stages share a pod; empty for this one.
        student: whether a distillation runs the stage again, on the student: the task has another name and record then.

    Returns:
        The stage's plain values.

    Raises:
        UsageError: a setting is unknown or out of bounds.
        MistereError: the stage failed; the record holds its message and exit code.
    """
    limit_spinning()
    use_storage_variables()
    guard_streams()
    end_with_runner()
    context = RunContext.model_validate(dict(run))
    store = open_store(context.store)
    task = f"{stage.name}-{modality}" if modality else stage.name
    if student:
        task = f"{task}{STUDENT_SUFFIX}"
    if shard is not None and shard.of > 1:
        task = f"{task}-{shard.index + 1}of{shard.of}"
    record = StageRecord(
        task=task, stage=stage.name, status="running", started=time.time(), inputs_digest=context.inputs_digest
    )
    clock, meter = time.perf_counter(), UsageMeter()
    emit("started", task=task)
    try:
        values = _find_or_run(
            stage,
            context,
            store,
            _validated(stage, config),
            inputs or {},
            outputs or {},
            external_inputs or {},
            modality,
            shard,
            record,
            meter,
            f"cluster.steps.{pod_of or stage.name}{f'-{modality}' if modality else ''}",
        )
    except MistereError as error:
        record.status, record.exit_code, record.message = "failed", int(error.exit_code), str(error)
        if isinstance(error, AttemptsExhaustedError):
            record.exhausted, record.explained = True, error.explained
        raise
    except Exception as error:
        failure = disk_error(error, store.uri)
        if failure is None and isinstance(error, OSError):
            failure = MistereError(f"{task} failed ({error}); the log has the trace.")
        if failure is not None:
            record.status, record.exit_code, record.message = "failed", int(failure.exit_code), f"{task}: {failure}"
            raise failure from error
        reason = redact(str(error).splitlines()[0]) if str(error) else ""
        record.status, record.exit_code = "failed", int(ExitCode.ERROR)
        record.message = f"{task} failed unexpectedly ({type(error).__name__}: {reason}); the log has the trace."
        raise
    finally:
        record.seconds = time.perf_counter() - clock
        record.peak_memory_mb, record.usage = peak_memory_mb(), meter.usage()
        write_record(store, context, record)
    return values


def _validated(stage: Stage, config: Mapping[str, Any]) -> Section:
    """The stage's configuration as an object. It comes from outside, as a parameter of the pipeline.

    Raises:
        UsageError: a setting is unknown or out of bounds.
    """
    try:
        return stage.config.model_validate(dict(config))
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(
            f"{stage.name}: {'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Value error, ')}; correct the setting."
        ) from error


def _identity(context: RunContext) -> RunIdentity:
    """The run's identity; where the run does not know its commit, that of the code here."""
    if context.commit:
        return context.identity
    commit, dirty = git_state()
    return context.identity.model_copy(update={"commit": commit, "dirty": dirty})


def write_record(store: ObjectStore, context: RunContext, record: StageRecord) -> None:
    """Write the task's record, which counts what earlier attempts used, too.

    If the store cannot be written, the failure is printed so that it is not lost.
    """
    key = stage_record_key(context.run_id, record.task)
    try:
        with suppress(MissingObjectError):  # nothing was attempted before, or the attempt was killed
            if before := StageRecord.unsealed(store.read(key)[0]):
                record.usage = total_usage([before.usage, record.usage])
        emit(record.status, **record.model_dump(include={"task", "seconds", "message", "values"}))
        store.write(key, record.sealed())
    except (OSError, StoreError):
        if record.status != "failed":
            raise
        print(f"{record.task}: {record.message}", file=sys.stderr, flush=True)


def _find_or_run(
    stage: Stage,
    context: RunContext,
    store: ObjectStore,
    config: Section,
    inputs: Mapping[str, Paths],
    outputs: Mapping[str, str],
    external_inputs: Mapping[str, str],
    modality: str,
    shard: TaskShard | None,
    record: StageRecord,
    meter: UsageMeter,
    setting: str,
) -> Mapping[str, str]:
    digests: dict[str, str] = {}
    for name, paths in inputs.items():
        if isinstance(paths, str):
            digests[name] = read_reference(paths, stage.inputs[name])
        else:
            kind = stage.inputs[name]
            digests.update({f"{name}.{each}": read_reference(path, kind) for each, path in _named(paths).items()})
    code = source_digest(f"components.{stage.name}.run")
    named = stage.external_inputs(config, context) if stage.external_inputs else {}
    key = record.key = step_key(stage, config, digests, {**external_inputs, **named}, code, modality, shard)
    progress = StoredProgress(record.task, store, context.run_id)
    finished = find_finished(stage, store, key, progress) if stage.cached else None
    if finished is not None:
        manifests, values = finished
        record.status = "reused"
    else:
        begin_attempt(store, context.run_id, record, setting)
        step = Step(record.task, key, context, store, progress, Checkpoints(store, stage.name, key))
        made_by = MadeBy(
            stage=record.task, key=key, code=code, run=_identity(context), config=config.model_dump(mode="json")
        )
        with progress.storing():
            opened = _open_inputs(stage, store, inputs, digests)
            result = _run(
                stage, step, config, opened, external_inputs, modality, shard, made_by, digests, record, meter
            )
        manifests, values = dict(result.manifests), dict(result.values)
        if stage.cached:
            remember(stage, store, key, manifests, values)
        step.checkpoints.clear()
        forget_attempts(store, context.run_id, record)
        record.status = "done"
    record.outputs = {name: manifest.digest for name, manifest in manifests.items()}
    record.values = dict(values)
    keep_reports(stage, context, store, manifests)
    for name, path in outputs.items():
        write_reference(manifests[name], Path(path))
    return values


def _open_inputs(
    stage: Stage, store: ObjectStore, inputs: Mapping[str, Paths], digests: Mapping[str, str]
) -> dict[str, _Opened]:
    """Open the input artifacts; those of a remote store are downloaded, which may take minutes."""
    opened: dict[str, _Opened] = {}
    for name, paths in inputs.items():
        kind = stage.inputs[name]
        if isinstance(paths, str):
            opened[name] = open_artifact(store, kind, digests[name])
        else:
            several = {each: open_artifact(store, kind, digests[f"{name}.{each}"]) for each in _named(paths)}
            opened[name] = several if isinstance(paths, Mapping) else list(several.values())
    return opened


def _named(paths: Sequence[str] | Mapping[str, str]) -> Mapping[str, str]:
    """The folders of several artifacts, by modality or by number."""
    return paths if isinstance(paths, Mapping) else {str(number): path for number, path in enumerate(paths)}


def keep_reports(stage: Stage, context: RunContext, store: ObjectStore, manifests: Mapping[str, Manifest]) -> None:
    """Copy the reports in a stage's outputs to the run's reports."""
    for output, names in stage.reports.items():
        manifest = manifests[output]
        for name in names:
            data, _ = store.read(f"{artifact_key(manifest.kind, manifest.digest)}/{name}")
            store.write(f"runs/{context.run_id}/reports/{name}", data)


def _run(
    stage: Stage,
    step: Step,
    config: Section,
    opened: Mapping[str, _Opened],
    external_inputs: Mapping[str, str],
    modality: str,
    shard: TaskShard | None,
    made_by: MadeBy,
    digests: Mapping[str, str],
    record: StageRecord,
    meter: UsageMeter,
) -> Result:
    clock = time.perf_counter()
    for module in stage.imports:
        importlib.import_module(module)
    work = importlib.import_module(f"components.{stage.name}.run").run
    record.import_seconds = time.perf_counter() - clock
    scratch = scratch_directory(step.store)
    try:
        directories = {name: scratch / name for name in stage.outputs}
        for directory in directories.values():
            directory.mkdir(parents=True)
        arguments: dict[str, Any] = {**opened, **directories, **external_inputs}
        if modality:
            arguments["modality"] = modality
        if shard is not None:
            arguments["shard"] = shard
        clock = time.perf_counter()
        result: Result = work(config=config, step=step, **arguments)
        record.compute_seconds = time.perf_counter() - clock - step.imports.seconds
        record.import_seconds += step.imports.seconds
        made_by = made_by.model_copy(
            update={"seconds": round(record.compute_seconds, 3), "device": _device(), "usage": meter.usage()}
        )
        manifests = {
            name: publish(
                step.store,
                manifest.model_copy(update={"made_by": made_by, "inputs": dict(digests)}),
                directories[name],
            )
            for name, manifest in result.manifests.items()
        }
        values = {**result.values, **(result.on_published(manifests) if result.on_published else {})}
        return Result(manifests, values)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def scratch_directory(store: ObjectStore) -> Path:
    """A temporary folder. For a local store it is on the store's disk, so that publishing is a rename."""
    parent = store.local_path("scratch") if isinstance(store, LocalStore) else Path(tempfile.gettempdir())
    assert parent is not None
    parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=parent))


def write_reference(manifest: Manifest, path: Path) -> None:
    """Write an artifact's manifest to a task's output folder, where later tasks read its digest."""
    path.mkdir(parents=True, exist_ok=True)
    (path / MANIFEST).write_text(manifest.model_dump_json(indent=1), encoding="utf-8")


def _device() -> str:
    """Name of the GPU if torch is loaded and has one, else ``cpu``. Importing torch only for this would take seconds."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return "cpu"
