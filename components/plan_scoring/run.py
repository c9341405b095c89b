"""``plan_scoring``: complete the run's parameters, pin archive and model, and share the shards out. Never cached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from mistere.config.scoring import ScoringConfig
from mistere.data.latest import latest_data
from mistere.engine.execution import execute
from mistere.engine.run_settings import run_context
from mistere.engine.stage import Result, Stage, Step
from mistere.registry.release.champion import chosen_bundle
from mistere.runs.run_info import read_origin, write_run_info
from mistere.scoring.archive import open_archive
from mistere.scoring.archive_check import check_files, check_roles, check_rows
from mistere.scoring.call_columns import ArchiveColumns

STAGE: Final = Stage(name="plan_scoring", config=ScoringConfig, cached=False)


class Plan(NamedTuple):
    """What the other steps of the run get."""

    context: dict[str, Any]
    section: dict[str, Any]
    shards: list[dict[str, int]]
    data_digest: str
    bundle_digest: str
    model_version: str


def plan(run: Mapping[str, Any], job: str, compiled: Mapping[str, Any], scoring: Mapping[str, Any]) -> Plan:
    """Complete the parameters of a run and resolve what it depends on.

    Args:
        run: the run's context, as the pipeline received it.
        job: the id of the run in Kubeflow Pipelines.
        compiled: the ``profile`` that the pipeline was compiled from, and its ``section``.
        scoring: the section, as the pipeline received it.

    Raises:
        UsageError: a setting is unknown, there is no such model or data, or the data lack a column.
        DataError: the archive is empty or damaged.
    """
    context = run_context(run, job, str(compiled.get("profile", "")))
    section = {**compiled.get("section", {}), **scoring}
    values = execute(STAGE, context.model_dump(mode="json"), section)
    resolved = {name: values[name] for name in ("data_digest", "data_remote")}
    tasks = int(values["tasks"])
    return Plan(
        context.model_copy(update=resolved).model_dump(mode="json"),
        section,
        [{"index": index, "of": tasks} for index in range(tasks)],
        values["data_digest"],
        values["bundle_digest"],
        values["model_version"],
    )


def run(config: ScoringConfig, step: Step) -> Result:
    """Check the archive and the model as far as that is cheap, and pin the run to them.

    Args:
        config: the ``scoring`` section.
        step: this execution.

    Raises:
        UsageError: there is no such model or data, or the data lack a column, or it has too many values to be one of groups.
        DataError: the archive is damaged, or not in the dataset form, or no turn has a role to be predicted.
    """
    digest, remote = step.run.data_digest, step.run.data_remote
    if not digest:
        digest, remote = latest_data(step.store)
    bundle, version = chosen_bundle(step.store, config.model, "scoring.model")
    archive = open_archive(remote, digest)
    first = archive.shards[0]
    check_files(archive)
    check_roles(archive)
    check_rows(archive, [first], ArchiveColumns(tuple(config.by), config.time))
    tasks = min(config.shards, len(archive.shards))
    step.progress(f"data {digest[:12]}, model {bundle[:12]}")
    if step.run.schedule:  # nobody else records how such a run was started
        context = step.run.model_copy(update={"data_digest": digest, "data_remote": remote})
        write_run_info(step.store, context, read_origin(step.store, step.run.schedule))
    return Result(
        values={
            "data_digest": digest,
            "data_remote": remote,
            "bundle_digest": bundle,
            "model_version": version,
            "tasks": str(tasks),
        }
    )
