"""The file of schedules: recurring runs, their times, settings and data."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from mistere.common.errors import UsageError
from mistere.common.names import problem
from mistere.common.parsing.documents import ParseError, read_yaml
from mistere.common.suggestions import did_you_mean
from mistere.config.base import Section
from mistere.config.stages import PipelineName
from pipelines.kubeflow.schedules.cron import check_cron


class ScheduleData(Section):
    """The data of a schedule's runs.

    Attributes:
        policy: ``pinned``: the version of ``source`` when the schedule was applied; ``latest``: the version that is published
            when a run starts.
        source: as for ``mistere submit --data``; only for ``pinned``, empty for the profile's.
    """

    policy: Literal["pinned", "latest"] = "pinned"
    source: str = ""

    @model_validator(mode="after")
    def _only_pinned_has_a_source(self) -> ScheduleData:
        if self.policy == "latest" and self.source:
            raise ValueError("the policy latest takes no source: `mistere data publish SOURCE` sets the latest data")
        return self


class Schedule(Section):
    """One schedule.

    Attributes:
        name: unique in the file and, with it, in the namespace.
        cron: six fields, seconds first, in UTC.
        pipeline: ``retraining``, ``scoring``, ``monitoring`` or ``distillation``.
        profile: the base settings; empty for the file's profile.
        settings: as for ``--set``, applied after the file's.
        data: the data of the runs.
        concurrency: largest number of concurrent runs.
        catch_up: whether missed runs (schedule disabled, cluster unavailable) are started later, one for each.
        enabled: whether the schedule is active.
    """

    name: str = Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
    cron: str
    pipeline: PipelineName = "retraining"
    profile: str = ""
    settings: list[str] = Field(default_factory=list)
    data: ScheduleData = ScheduleData()
    concurrency: int = Field(default=1, ge=1, le=10)
    catch_up: bool = False
    enabled: bool = True

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, cron: str) -> str:
        return check_cron(cron)


class ScheduleFile(Section):
    """The contents of the file.

    Attributes:
        profile: of schedules that name none; its ``cluster`` section is the target of all schedules.
        settings: of all schedules.
        schedules: the complete list: managed schedules on the server that are missing here are deleted.
    """

    profile: str = "sample"
    settings: list[str] = Field(default_factory=list)
    schedules: list[Schedule] = Field(default_factory=list)

    @field_validator("schedules")
    @classmethod
    def _names_are_unique(cls, schedules: list[Schedule]) -> list[Schedule]:
        names = [schedule.name for schedule in schedules]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two schedules are called {name!r}")
        return schedules


def read_schedules(path: Path) -> ScheduleFile:
    """Read a file of schedules.

    Raises:
        UsageError: the file is missing or invalid.
    """
    try:
        values = read_yaml(path)
    except OSError as error:
        raise UsageError(
            f"there is no file of schedules at {path}: see pipelines/schedules.yaml for an example."
        ) from error
    except ParseError as error:
        raise UsageError(f"{path} is not valid YAML: correct it.") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} holds no schedules: write them as in pipelines/schedules.yaml.")
    try:
        return ScheduleFile.model_validate(values)
    except ValidationError as error:
        raise _explain(error, path, values) from error


def _explain(error: ValidationError, path: Path, values: dict[str, object]) -> UsageError:
    """The first error as a sentence, with the schedule's name if it has one."""
    errors = error.errors()  # report a misspelt key before the missing one that it causes
    first = next((item for item in errors if item["type"] == "extra_forbidden"), errors[0])
    location = list(first["loc"])
    owner: type[Section] = ScheduleFile
    where = ""
    if location[:1] == ["schedules"] and len(location) > 1:
        schedules = values["schedules"]
        entry = schedules[location[1]] if isinstance(schedules, list) and isinstance(location[1], int) else None
        name = entry.get("name") if isinstance(entry, dict) else None
        where, location, owner = f"schedule {location[1] if problem(name) else name}: ", location[2:], Schedule
        if location[:1] == ["data"]:
            owner = ScheduleData
    if first["type"] == "extra_forbidden":
        return UsageError(
            f"{path}: {where}unknown key {location[-1]!r}{did_you_mean(str(location[-1]), owner.model_fields)}"
        )
    key = ".".join(map(str, location))
    return UsageError(f"{path}: {where}{key}{': ' if key else ''}{first['msg'].removeprefix('Value error, ')}.")
