"""The difference between the file of schedules and the server's recurring runs, and the changes that remove it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from mistere.artifacts.manifest import canonical_digest
from mistere.artifacts.object_store import ObjectStore
from mistere.engine.stage import RunContext
from mistere.runs.run_info import RunOrigin, write_origin
from pipelines.kubeflow.schedules.schedule_file import Schedule
from pipelines.kubeflow.version import Version, content_of, ensure_uploaded, version_label

if TYPE_CHECKING:
    from kfp_server_api import V2beta1PipelineVersion, V2beta1RecurringRun

    from pipelines.kubeflow.connection.client import Pipelines

MARK: Final = "Kept by `mistere schedule`; definition"
"""Start of the description of managed schedules; other recurring runs are ignored."""


@dataclass(frozen=True)
class DesiredSchedule:
    """A schedule of the file, with everything that its runs need.

    Attributes:
        schedule: the entry of the file.
        version: of the pipeline.
        context: of its runs.
        arguments: the sections of the configuration.
        origin: of its runs.
        experiment: its name.
        service_account: of its runs' pods.
    """

    schedule: Schedule
    version: Version
    context: RunContext
    arguments: Mapping[str, Any]
    origin: RunOrigin
    experiment: str
    service_account: str

    @property
    def definition(self) -> str:
        """Digest of everything but the time that determines its runs."""
        context = self.context.model_dump(mode="json", exclude={"schedule"})
        parts = {"content": self.version.content, "arguments": dict(self.arguments), "context": context}
        return canonical_digest(parts)[:12]

    def parameters(self) -> dict[str, Any]:
        """The pipeline parameters of its runs."""
        context = self.context.model_copy(update={"schedule": f"{self.schedule.name}/{self.definition}"})
        return {"run": context.model_dump(mode="json"), **self.arguments}


@dataclass(frozen=True)
class Change:
    """The change of one schedule on the server.

    Attributes:
        name: of the schedule.
        desired: the schedule after the change; None to delete it.
        existing: the server's recurring runs of that name; the first is compared, the others are left over from an interrupted
            apply.
        differences: in words; empty for a new schedule and for a deletion.
        switch_only: whether it is enough to enable or disable the first one.
    """

    name: str
    desired: DesiredSchedule | None
    existing: list[V2beta1RecurringRun]
    differences: list[str] = field(default_factory=list)
    switch_only: bool = False

    @property
    def creates(self) -> bool:
        """Whether a schedule is created, which needs a pipeline version of this tree."""
        return self.desired is not None and not self.switch_only

    def lines(self) -> Iterator[str]:
        """The change for printing: ``+`` new, ``~`` changed, ``-`` deleted."""
        if self.desired is None:
            yield f"- {self.name}"
        elif not self.existing:
            data = self.desired.schedule.data.policy
            digest = f" {self.desired.context.data_digest[:12]}" if self.desired.context.data_digest else ""
            state = "" if self.desired.schedule.enabled else ", off"
            yield f"+ {self.name}: {self.desired.schedule.cron}, version {self.desired.version.label}, data {data}{digest}{state}"
        else:
            yield from (f"~ {self.name}: {difference}" for difference in self.differences)


def plan(pipelines: Pipelines, desired: list[DesiredSchedule]) -> list[Change]:
    """Compare the server with the file.

    Args:
        pipelines: the server.
        desired: every schedule of the file.
    """
    managed: dict[str, list[V2beta1RecurringRun]] = {}
    for one in pipelines.schedules():
        if (one.description or "").startswith(MARK):
            managed.setdefault(one.display_name, []).append(one)
    for existing in managed.values():
        existing.sort(key=lambda one: str(one.created_at), reverse=True)
    changes = [
        Change(name, None, existing)
        for name, existing in managed.items()
        if name not in {one.schedule.name for one in desired}
    ]
    for one in desired:
        change = _compare(pipelines, one, managed.get(one.schedule.name, []))
        if change is not None:
            changes.append(change)
    return changes


def _compare(pipelines: Pipelines, desired: DesiredSchedule, existing: list[V2beta1RecurringRun]) -> Change | None:
    name = desired.schedule.name
    if not existing:
        return Change(name, desired, existing)
    differences = list(_differences(pipelines, desired, existing[0]))
    direction = "off → on" if desired.schedule.enabled else "on → off"
    switched = [] if _enabled(existing[0]) == desired.schedule.enabled else [direction]
    surplus = [f"{len(existing) - 1} left over from an interrupted apply"] if existing[1:] else []
    if not (differences or switched or surplus):
        return None
    return Change(name, desired, existing, [*differences, *switched, *surplus], switch_only=not differences)


def _differences(pipelines: Pipelines, desired: DesiredSchedule, existing: V2beta1RecurringRun) -> Iterator[str]:
    """All differences but whether it is enabled, the only field that can be changed without recreating it."""
    schedule = desired.schedule
    cron = existing.trigger.cron_schedule.cron if existing.trigger and existing.trigger.cron_schedule else "none"
    concurrency, catch_up = int(existing.max_concurrency or 1), not existing.no_catchup
    if cron != schedule.cron:
        yield f"cron {cron} → {schedule.cron}"
    if concurrency != schedule.concurrency:
        yield f"concurrency {concurrency} → {schedule.concurrency}"
    if catch_up != schedule.catch_up:
        yield f"catch_up {catch_up} → {schedule.catch_up}".lower()
    if (existing.service_account or "") != desired.service_account:
        yield f"service account {existing.service_account or 'none'} → {desired.service_account}"
    version = _version(pipelines, existing)
    if version is None:
        yield f"version deleted → {desired.version.label}"
    elif content_of(version) != desired.version.content:
        yield f"version {version_label(version.display_name, content_of(version))} → {desired.version.label}"
    before = (existing.runtime_config.parameters if existing.runtime_config else None) or {}
    yield from _leaves("run", _of_runs(before.get("run") or {}), _of_runs(desired.parameters()["run"]))
    for section in desired.arguments:
        yield from _leaves(section, before.get(section), desired.arguments[section])


def _version(pipelines: Pipelines, existing: V2beta1RecurringRun) -> V2beta1PipelineVersion | None:
    reference = existing.pipeline_version_reference
    return pipelines.version_by_id(reference.pipeline_id, reference.pipeline_version_id) if reference else None


def _of_runs(context: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are compared: another commit with the same content makes no difference."""
    return {key: value for key, value in context.items() if key not in {"commit", "dirty", "schedule"}}


def _leaves(name: str, before: Any, after: Any) -> Iterator[str]:
    """The settings that differ, with their dotted names."""
    if before == after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            yield from _leaves(f"{name}.{key}", before.get(key), after.get(key))
        return
    yield f"{name} {before} → {after}"


def _enabled(existing: V2beta1RecurringRun) -> bool:
    return existing.mode != "DISABLE"


def apply_change(pipelines: Pipelines, store: ObjectStore, change: Change) -> None:
    """Apply a change. A schedule pins a pipeline version: a changed one is created before the old one is deleted.

    Args:
        pipelines: the server.
        store: the object store.
        change: the change.
    """
    leftover = change.existing
    if change.desired is not None:
        if not change.creates:
            kept = change.existing[0]
            if _enabled(kept) != change.desired.schedule.enabled:
                pipelines.switch_schedule(kept.recurring_run_id, enabled=change.desired.schedule.enabled)
            leftover = change.existing[1:]
        else:
            _create(pipelines, store, change.desired, [one.recurring_run_id for one in change.existing])
    for one in leftover:
        pipelines.delete_schedule(one.recurring_run_id)


def _create(pipelines: Pipelines, store: ObjectStore, desired: DesiredSchedule, replaced: Collection[str]) -> None:
    from kfp_server_api import (
        V2beta1CronSchedule,
        V2beta1PipelineVersionReference,
        V2beta1RecurringRun,
        V2beta1RuntimeConfig,
        V2beta1Trigger,
    )

    schedule, parameters = desired.schedule, desired.parameters()
    version, _ = ensure_uploaded(pipelines, desired.version)
    write_origin(store, parameters["run"]["schedule"], desired.origin)
    pipelines.set_schedule(
        V2beta1RecurringRun(
            display_name=schedule.name,
            description=f"{MARK} {desired.definition}, version {version.display_name}, data {schedule.data.policy}",
            experiment_id=pipelines.experiment(desired.experiment),
            pipeline_version_reference=V2beta1PipelineVersionReference(
                pipeline_id=version.pipeline_id, pipeline_version_id=version.pipeline_version_id
            ),
            runtime_config=V2beta1RuntimeConfig(parameters=parameters),
            trigger=V2beta1Trigger(cron_schedule=V2beta1CronSchedule(cron=schedule.cron)),
            max_concurrency=str(schedule.concurrency),
            no_catchup=not schedule.catch_up,
            mode="ENABLE" if schedule.enabled else "DISABLE",
            service_account=desired.service_account,
        ),
        replaced,
    )
