"""``mistere schedule``: compares the schedule file with a cluster, and applies it."""

from __future__ import annotations

import sys
from pathlib import Path

from mistere.common.counting import counted, plural
from mistere.common.errors import ExitCode, UsageError
from mistere.common.paths import require_checkout
from mistere.config.loader import Config
from mistere.data.latest import LATEST
from mistere.engine.stage import RunContext
from mistere.runs.run_info import RunOrigin
from pipelines.catalogue import PIPELINES
from pipelines.cli.output.console import print_text
from pipelines.kubeflow.connection.client import Pipelines
from pipelines.kubeflow.connection.target import ClusterTarget, cluster_target, pin_for_cluster
from pipelines.kubeflow.schedules.plan import DesiredSchedule, apply_change, plan
from pipelines.kubeflow.schedules.schedule_file import Schedule, ScheduleFile, read_schedules
from pipelines.kubeflow.version import Tree, Version, compiled_version, profile_name, releasable_tree, this_tree
from pipelines.profiles import load_profile, pipeline_arguments
from pipelines.train_image import check_train_image


def diff(file: Path, *, host: str | None = None, store: str | None = None, tracking: str | None = None) -> int:
    """Print the changes that ``apply`` would make.

    Args:
        file: the schedule file.
        host: address of Kubeflow Pipelines.
        store: ``s3://bucket/prefix``.
        tracking: the MLflow server.

    Returns:
        The exit code: 0, or 5 if there are changes.
    """
    require_checkout("mistere schedule")
    schedule_file = read_schedules(file)
    target, pipelines = _target(schedule_file, host, store, tracking)
    changes = plan(pipelines, _desired_schedules(schedule_file, target, this_tree()))
    for change in changes:
        for line in change.lines():
            print_text(line)
    if not changes:
        print_text(_count(schedule_file, file))
    return int(ExitCode.DIFFERENT) if changes else 0


def apply(
    file: Path,
    *,
    host: str | None = None,
    store: str | None = None,
    tracking: str | None = None,
    allow_dirty: bool = False,
) -> int:
    """Make the cluster's schedules match the file; schedules that were not made from it are left unchanged.

    Args:
        file: the schedule file.
        host: address of Kubeflow Pipelines.
        store: ``s3://bucket/prefix``.
        tracking: the MLflow server.
        allow_dirty: allow uncommitted changes in the tree from which schedules are created.

    Returns:
        The exit code.
    """
    require_checkout("mistere schedule")
    schedule_file = read_schedules(file)
    target, pipelines = _target(schedule_file, host, store, tracking)
    tree = this_tree()
    desired = _desired_schedules(schedule_file, target, tree)
    changes = plan(pipelines, desired)
    if any(change.creates for change in changes):  # deleting and switching runs no code of this tree
        releasable_tree(allow_dirty=allow_dirty)
    if any(entry.schedule.data.policy == "latest" for entry in desired) and LATEST.read(target.store).value is None:
        raise UsageError(
            f"the policy latest needs published data, and there is none ({target.store.location(LATEST.key)} does not exist): "
            "publish some with `mistere data publish`."
        )
    for change in changes:
        apply_change(pipelines, target.store, change)
        for line in change.lines():
            print_text(line)
    print_text(_count(schedule_file, file))
    return 0


def _count(schedule_file: ScheduleFile, file: Path) -> str:
    number = len(schedule_file.schedules)
    return f"{counted(number, 'schedule')}, as {file} has {plural(number, 'it', 'them')}"


def _target(
    schedule_file: ScheduleFile, host: str | None, store: str | None, tracking: str | None
) -> tuple[ClusterTarget, Pipelines]:
    cluster = load_profile(schedule_file.profile, schedule_file.settings, "settings").cluster
    target = cluster_target(cluster, host, store, tracking)
    return target, Pipelines(target.host, cluster.namespace, kubeflow_namespace=cluster.kubeflow_namespace)


def _desired_schedules(schedule_file: ScheduleFile, target: ClusterTarget, tree: Tree) -> list[DesiredSchedule]:
    """Compile and pin every schedule of the file."""
    namespace = load_profile(schedule_file.profile, schedule_file.settings, "settings").cluster.namespace
    configs = []
    for schedule in schedule_file.schedules:  # checked before the first is pinned, which uploads a folder
        profile, settings = schedule.profile or schedule_file.profile, (*schedule_file.settings, *schedule.settings)
        try:
            config = load_profile(profile, settings, "settings")
            pipeline = PIPELINES[schedule.pipeline]
            pipeline.check(config)
            pipeline.check_settings(schedule.settings)  # the file's are meant for other schedules, too
            if schedule.data.policy == "latest" and not pipeline.follows_data:
                raise UsageError(
                    f"the pipeline {pipeline.name} does not read the latest data: leave out the policy latest."
                )
            check_train_image(config)
        except UsageError as error:
            raise UsageError(f"schedule {schedule.name}: {error}") from error
        if config.cluster.namespace != namespace:
            raise UsageError(
                f"schedule {schedule.name} is for namespace {config.cluster.namespace!r}, the file's others for {namespace!r}: "
                "give each namespace a file of its own."
            )
        configs.append((schedule, profile, settings, config))
    return [
        _desired_schedule(
            schedule, profile, config, compiled_version(profile, settings, tree, schedule.pipeline), target, tree
        )
        for schedule, profile, settings, config in configs
    ]


def _desired_schedule(
    schedule: Schedule, profile: str, config: Config, version: Version, target: ClusterTarget, tree: Tree
) -> DesiredSchedule:
    latest = schedule.data.policy == "latest"
    named = config.data.source if PIPELINES[schedule.pipeline].names_data else ""
    source = "latest" if latest else schedule.data.source or named
    pinned = None if latest or not source else pin_for_cluster(source, target.store)
    context = RunContext(
        run_id=schedule.name,
        store=target.store.uri,
        tracking_uri=target.tracking_uri,
        data_remote=pinned.remote if pinned else "",
        data_digest=pinned.digest if pinned else "",
        profile=profile_name(profile),
        commit=tree.commit,
        dirty=tree.dirty,
        uncommitted=tree.uncommitted,
    )
    arguments = pipeline_arguments(config, context, schedule.pipeline)
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
