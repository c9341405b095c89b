"""The record of a run's start (``runs/<id>/run.json``): configuration, command and data, for reports, lineage and replay."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mistere.artifacts.object_store import MissingObjectError, ObjectStore
from mistere.artifacts.sealed_record import SealedRecord, seal
from mistere.common.errors import ArtifactError
from mistere.common.processes.command_line import command_line
from mistere.common.secrets.redaction import redact
from mistere.common.urls import has_credentials
from mistere.config.differences import changed_settings
from mistere.config.loader import Config
from mistere.engine.stage import RunContext
from mistere.runs.outcome import run_info_key

if TYPE_CHECKING:
    from mistere.data.versions import PinnedData


class RunOrigin(SealedRecord):
    """How a run was started, or all runs of a schedule.

    Attributes:
        config: the complete configuration.
        command: the command line, without secrets.
        source: the data, as the user named it, without secrets.
        endpoint: the S3 endpoint of the data's remote, if it names one.
        changed: ``section.key`` → the value of each setting of a stage that differs from its default; None in records of earlier
            releases.
        reason: why the run was started, where it was not a person's wish; empty otherwise.
    """

    config: dict[str, Any]
    command: str
    source: str
    endpoint: str = ""
    changed: dict[str, Any] | None = None
    reason: str = ""

    @classmethod
    def of(
        cls, config: Config, command: list[str], source: str, pinned: PinnedData | None, reason: str = ""
    ) -> RunOrigin:
        """Make the origin from a command's arguments; an endpoint with credentials is left out.

        Args:
            config: the complete configuration.
            command: the command line, split into words.
            source: the data, as the user named it.
            pinned: the version that the source was resolved to; None if the run resolves it.
            reason: why the run is started, if not by a person's wish.
        """
        endpoint = pinned.endpoint if pinned and not has_credentials(pinned.endpoint) else ""
        settings, shown = config.model_dump(mode="json"), redact(command_line(*command))
        return cls(
            config=settings,
            command=shown,
            source=redact(source),
            endpoint=endpoint,
            changed=changed_stage_settings(config),
            reason=reason,
        )


def changed_stage_settings(config: Config) -> dict[str, Any]:
    """The settings that differ from their defaults, without those of the cluster's objects, which change no result."""
    return {name: value for name, value in changed_settings(config).items() if not name.startswith("cluster.")}


def write_run_info(store: ObjectStore, context: RunContext, origin: RunOrigin) -> None:
    """Write ``run.json``."""
    info = {
        **context.identity.model_dump(),
        "started": time.time(),
        "config": origin.config,
        "changed": origin.changed,
        "command": origin.command,
        "data": {"source": origin.source, "dvc_digest": context.data_digest, "endpoint": origin.endpoint},
        **({"reason": origin.reason} if origin.reason else {}),
    }
    store.write(run_info_key(context.run_id), seal(info))


def write_origin(store: ObjectStore, schedule: str, origin: RunOrigin) -> None:
    """Store the origin of a schedule's runs; each run writes its own ``run.json`` from it.

    Args:
        store: the object store.
        schedule: ``NAME/DEFINITION``.
        origin: of all its runs.
    """
    store.write(_origin_key(schedule), origin.sealed())


def unrecorded_origin(
    store: ObjectStore, schedule: str, whole: Config, config: Mapping[str, Any], source: str, *, recorded: bool
) -> RunOrigin | None:
    """How a run was started that nobody has recorded: by a schedule, or by another client than ``mistere``; None if it is recorded.

    Args:
        store: holds the definitions of schedules.
        schedule: that started the run; empty for none.
        whole: the complete configuration.
        config: what of it the pipeline is handed.
        source: the data, in words.
        recorded: whether the command that started the run has recorded it.
    """
    if schedule:
        return read_origin(store, schedule)
    if recorded:
        return None
    return RunOrigin(
        config=dict(config),
        command="started in Kubeflow Pipelines",
        source=source,
        changed=changed_stage_settings(whole),
    )


def read_origin(store: ObjectStore, schedule: str) -> RunOrigin:
    """The origin of a schedule's runs.

    Raises:
        ArtifactError: it is missing or damaged.
    """
    key = _origin_key(schedule)
    try:
        origin = RunOrigin.unsealed(store.read(key)[0])
    except MissingObjectError:
        origin = None
    if origin is None:
        raise ArtifactError(
            f"{store.location(key)} is missing or damaged: delete the schedule and run `mistere schedule apply` again."
        )
    return origin


def _origin_key(schedule: str) -> str:
    return f"schedules/{schedule}.json"
