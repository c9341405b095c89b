"""What the file of schedules wants, what the server has, and what would make the two the same."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from mistere.artifacts.manifests import canonical_digest
from mistere.artifacts.object_store import ObjectStore
from mistere.config.loader import SECTIONS
from mistere.engine.stage import RunContext
from mistere.runs.run_info import RunOrigin, write_origin
from pipelines.kubeflow.schedules import Schedule
from pipelines.kubeflow.version import Version, content_of, uploaded

if TYPE_CHECKING:
    from kfp_server_api import V2beta1PipelineVersion, V2beta1RecurringRun

    from pipelines.kubeflow.client import Pipelines

MARK: Final = "Kept by `mistere schedule`; definition"
"""What the description of a schedule of ours begins with; others are left alone."""


@dataclass(frozen=True)
class Wanted:
    """A schedule with everything that it is to run.

    Attributes:
        schedule: as the file has it.
        version: the pipeline's.
        context: of its runs.
        arguments: sections of the configuration.
        origin: of its runs.
        experiment: by name.
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
        """Digest of what its runs are, whenever they are."""
        context = self.context.model_dump(mode="json", exclude={"schedule"})
        parts = {"content": self.version.content, "arguments": dict(self.arguments), "context": context}
        return canonical_digest(parts)[:12]

    def parameters(self) -> dict[str, Any]:
        """What its runs are handed."""
        context = self.context.model_copy(update={"schedule": f"{self.schedule.name}/{self.definition}"})
        return {"run": context.model_dump(mode="json"), **self.arguments}


@dataclass(frozen=True)
class Change:
    """What is to be done about one schedule.

    Attributes:
        name: of the schedule.
        wanted: as it is to be; None where it is to go.
        there: the server's, of which the first is compared; the others are left over from an apply that was cut off.
        differences: in words; empty for a new one, or one that is to go.
        switch: whether turning it on or off is all.
    """

    name: str
    wanted: Wanted | None
    there: list[V2beta1RecurringRun]
    differences: list[str] = field(default_factory=list)
    switch: bool = False

    def lines(self) -> Iterator[str]:
        """For a person: ``+`` new, ``~`` changed, ``-`` to go."""
        if self.wanted is None:
            yield f"- {self.name}"
        elif not self.there:
            data = self.wanted.schedule.data.policy
            digest = f" {self.wanted.context.data_digest[:12]}" if self.wanted.context.data_digest else ""
            state = "" if self.wanted.schedule.enabled else ", off"
            yield f"+ {self.name}: {self.wanted.schedule.cron}, {self.wanted.version.name}, data {data}{digest}{state}"
        else:
            yield from (f"~ {self.name}: {difference}" for difference in self.differences)


def plan(pipelines: Pipelines, wanted: list[Wanted]) -> list[Change]:
    """Compare.

    Args:
        pipelines: the server.
        wanted: every schedule that is to be there.
    """
    ours: dict[str, list[V2beta1RecurringRun]] = {}
    for one in pipelines.schedules():
        if (one.description or "").startswith(MARK):
            ours.setdefault(one.display_name, []).append(one)
    for there in ours.values():
        there.sort(key=lambda one: str(one.created_at), reverse=True)
    changes = [
        Change(name, None, there) for name, there in ours.items() if name not in {w.schedule.name for w in wanted}
    ]
    for one in wanted:
        there = ours.get(one.schedule.name, [])
        change = _compared(pipelines, one, there)
        if change is not None:
            changes.append(change)
    return changes


def _compared(pipelines: Pipelines, wanted: Wanted, there: list[V2beta1RecurringRun]) -> Change | None:
    name = wanted.schedule.name
    if not there:
        return Change(name, wanted, there)
    found = list(_differences(pipelines, wanted, there[0]))
    turned = "off → on" if wanted.schedule.enabled else "on → off"
    off = [] if _enabled(there[0]) == wanted.schedule.enabled else [turned]
    over = [f"{len(there) - 1} left over from an apply that was cut off"] if there[1:] else []
    if not (found or off or over):
        return None
    return Change(name, wanted, there, [*found, *off, *over], switch=not found)


def _differences(pipelines: Pipelines, wanted: Wanted, there: V2beta1RecurringRun) -> Iterator[str]:
    """Everything but whether it is on, which alone can be changed without making it anew."""
    schedule = wanted.schedule
    cron = there.trigger.cron_schedule.cron if there.trigger and there.trigger.cron_schedule else "none"
    concurrency, catch_up = int(there.max_concurrency or 1), not there.no_catchup
    if cron != schedule.cron:
        yield f"cron {cron} → {schedule.cron}"
    if concurrency != schedule.concurrency:
        yield f"concurrency {concurrency} → {schedule.concurrency}"
    if catch_up != schedule.catch_up:
        yield f"catch_up {catch_up} → {schedule.catch_up}".lower()
    if (there.service_account or "") != wanted.service_account:
        yield f"service account {there.service_account or 'none'} → {wanted.service_account}"
    version = _version(pipelines, there)
    if version is None:
        yield f"version deleted → {wanted.version.name}"
    elif content_of(version) != wanted.version.content:
        yield f"version {version.display_name} → {wanted.version.name}"
    before = (there.runtime_config.parameters if there.runtime_config else None) or {}
    yield from _leaves("run", _of_runs(before.get("run") or {}), _of_runs(wanted.parameters()["run"]))
    for section in SECTIONS:
        yield from _leaves(section, before.get(section), wanted.arguments[section])


def _version(pipelines: Pipelines, there: V2beta1RecurringRun) -> V2beta1PipelineVersion | None:
    reference = there.pipeline_version_reference
    return pipelines.version_by_id(reference.pipeline_id, reference.pipeline_version_id) if reference else None


def _of_runs(context: Mapping[str, Any]) -> dict[str, Any]:
    """What tells two contexts apart: another commit with the same content is the same."""
    return {key: value for key, value in context.items() if key not in {"commit", "dirty", "schedule"}}


def _leaves(name: str, before: Any, after: Any) -> Iterator[str]:
    """The settings that differ, by their dotted names."""
    if before == after:
        return
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            yield from _leaves(f"{name}.{key}", before.get(key), after.get(key))
        return
    yield f"{name} {before} → {after}"


def _enabled(there: V2beta1RecurringRun) -> bool:
    return there.mode != "DISABLE"


def carry_out(pipelines: Pipelines, store: ObjectStore, change: Change) -> None:
    """Do it. A schedule pins one version of the pipeline: to change it, the new one is made before the old one goes.

    Args:
        pipelines: the server.
        store: the object store.
        change: what is to be done.
    """
    leftover = change.there
    if change.wanted is not None:
        if change.switch:
            kept = change.there[0]
            if _enabled(kept) != change.wanted.schedule.enabled:
                pipelines.switch_schedule(kept.recurring_run_id, enabled=change.wanted.schedule.enabled)
            leftover = change.there[1:]
        else:
            _make(pipelines, store, change.wanted, [one.recurring_run_id for one in change.there])
    for one in leftover:
        pipelines.delete_schedule(one.recurring_run_id)


def _make(pipelines: Pipelines, store: ObjectStore, wanted: Wanted, replaced: Collection[str]) -> None:
    from kfp_server_api import (
        V2beta1CronSchedule,
        V2beta1PipelineVersionReference,
        V2beta1RecurringRun,
        V2beta1RuntimeConfig,
        V2beta1Trigger,
    )

    schedule, parameters = wanted.schedule, wanted.parameters()
    version, _ = uploaded(pipelines, wanted.version)
    write_origin(store, parameters["run"]["schedule"], wanted.origin)
    pipelines.set_schedule(
        V2beta1RecurringRun(
            display_name=schedule.name,
            description=f"{MARK} {wanted.definition}, version {version.display_name}, data {schedule.data.policy}",
            experiment_id=pipelines.experiment(wanted.experiment),
            pipeline_version_reference=V2beta1PipelineVersionReference(
                pipeline_id=version.pipeline_id, pipeline_version_id=version.pipeline_version_id
            ),
            runtime_config=V2beta1RuntimeConfig(parameters=parameters),
            trigger=V2beta1Trigger(cron_schedule=V2beta1CronSchedule(cron=schedule.cron)),
            max_concurrency=str(schedule.concurrency),
            no_catchup=not schedule.catch_up,
            mode="ENABLE" if schedule.enabled else "DISABLE",
            service_account=wanted.service_account,
        ),
        replaced,
    )
