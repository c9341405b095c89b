"""``mistere schedule``: what the file of schedules would change on a cluster, and changing it."""

from __future__ import annotations

import sys
from pathlib import Path

from mistere.common.errors import ExitCode, UsageError
from mistere.common.paths import require_checkout
from mistere.config.loader import Config
from mistere.data.latest import LATEST
from mistere.engine.stage import RunContext
from mistere.runs.run_info import RunOrigin
from pipelines.kubeflow.client import Pipelines
from pipelines.kubeflow.schedule_plan import DesiredSchedule, apply_change, plan
from pipelines.kubeflow.schedules import Schedule, ScheduleFile, read_schedules
from pipelines.kubeflow.target import ClusterTarget, cluster_target, pin_for_cluster
from pipelines.kubeflow.version import Tree, Version, compiled_version, profile_name, releasable_tree, this_tree
from pipelines.profiles import load_profile, pipeline_arguments


def diff(file: Path, *, host: str | None = None, store: str | None = None, tracking: str | None = None) -> int:
    """Print what ``apply`` would do.

    Args:
        file: of schedules.
        host: of Kubeflow Pipelines.
        store: ``s3://bucket/prefix``.
        tracking: the MLflow server.

    Returns:
        The exit code: 5 where there is something to do.
    """
    require_checkout("mistere schedule")
    listed = read_schedules(file)
    place, pipelines = _place(listed, host, store, tracking)
    changes = plan(pipelines, _wanted(listed, place, this_tree()))
    for change in changes:
        for line in change.lines():
            print(line)
    if not changes:
        print(f"{len(listed.schedules)} schedules, as {file} has them")
    return int(ExitCode.DIFFERENT) if changes else 0


def apply(
    file: Path,
    *,
    host: str | None = None,
    store: str | None = None,
    tracking: str | None = None,
    allow_dirty: bool = False,
) -> int:
    """Make the cluster's schedules what the file says; those that others made are left alone.

    Args:
        file: of schedules.
        host: of Kubeflow Pipelines.
        store: ``s3://bucket/prefix``.
        tracking: the MLflow server.
        allow_dirty: take a tree with changes that no commit holds.

    Returns:
        The exit code.
    """
    require_checkout("mistere schedule")
    listed = read_schedules(file)
    place, pipelines = _place(listed, host, store, tracking)
    wanted = _wanted(listed, place, releasable_tree(allow_dirty=allow_dirty))
    if any(one.schedule.data.policy == "latest" for one in wanted) and LATEST.read(place.store).value is None:
        raise UsageError(
            f"no data has been published, which the policy latest needs ({place.store.location(LATEST.key)} does not exist): "
            "`mistere data publish` does it."
        )
    changes = plan(pipelines, wanted)
    for change in changes:
        apply_change(pipelines, place.store, change)
        for line in change.lines():
            print(line, flush=True)
    print(f"{len(listed.schedules)} schedules, as {file} has them")
    return 0


def _place(
    listed: ScheduleFile, host: str | None, store: str | None, tracking: str | None
) -> tuple[ClusterTarget, Pipelines]:
    cluster = load_profile(listed.profile, listed.settings).cluster
    place = cluster_target(cluster, host, store, tracking)
    return place, Pipelines(place.host, cluster.namespace)


def _wanted(listed: ScheduleFile, place: ClusterTarget, tree: Tree) -> list[DesiredSchedule]:
    """Every schedule of the file, compiled and pinned."""
    namespace = load_profile(listed.profile, listed.settings).cluster.namespace

    wanted = []
    for schedule in listed.schedules:
        profile, settings = schedule.profile or listed.profile, (*listed.settings, *schedule.settings)
        config = load_profile(profile, settings)
        if config.cluster.namespace != namespace:
            raise UsageError(
                f"schedule {schedule.name} is for namespace {config.cluster.namespace!r}, the file's others for {namespace!r}: "
                "give each namespace a file of its own."
            )
        wanted.append(_one(schedule, profile, config, compiled_version(profile, settings, tree), place, tree))
    return wanted


def _one(
    schedule: Schedule, profile: str, config: Config, version: Version, place: ClusterTarget, tree: Tree
) -> DesiredSchedule:
    latest = schedule.data.policy == "latest"
    source = "latest" if latest else schedule.data.source or config.data.source
    pinned = None if latest else pin_for_cluster(source, place.store)
    context = RunContext(
        run_id=schedule.name,
        store=place.store.uri,
        tracking_uri=place.tracking_uri,
        data_remote=pinned.remote if pinned else "",
        data_digest=pinned.digest if pinned else "",
        profile=profile_name(profile),
        commit=tree.commit,
        dirty=tree.dirty,
    )
    arguments = pipeline_arguments(config, context)
    del arguments["run"]
    return DesiredSchedule(
        schedule=schedule,
        version=version,
        context=context,
        arguments=arguments,
        origin=RunOrigin.of(config, ["mistere", *sys.argv[1:]], source, pinned),
        experiment=config.cluster.experiment,
        service_account=config.cluster.service_account,
    )
