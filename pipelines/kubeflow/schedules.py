"""The file of schedules: what is to run again and again, on which data."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from mistere.common.errors import UsageError
from mistere.common.suggestions import did_you_mean
from mistere.config.base import Section
from pipelines.kubeflow.cron import check_cron


class ScheduleData(Section):
    """Which data a schedule's runs take.

    Attributes:
        policy: ``pinned``: what ``source`` was when the schedule was applied; ``latest``: what has been published when a run
            starts.
        source: as ``mistere submit --data`` takes it; for ``pinned`` alone, empty for the profile's.
    """

    policy: Literal["pinned", "latest"] = "pinned"
    source: str = ""

    @model_validator(mode="after")
    def _only_pinned_has_a_source(self) -> ScheduleData:
        if self.policy == "latest" and self.source:
            raise ValueError(
                "the policy latest takes no source: `mistere data publish SOURCE` says which data is the latest"
            )
        return self


class Schedule(Section):
    """One schedule.

    Attributes:
        name: unique in the file and, with it, in the namespace.
        cron: six fields, as Kubeflow Pipelines takes them, in UTC.
        profile: settings to start from; empty for the file's.
        settings: as ``--set`` takes them, after the file's.
        data: which data.
        concurrency: runs of it at once, at most.
        catch_up: whether runs that were missed (the schedule was off, the cluster was away) are made up for, one for each.
        enabled: whether it is on.
    """

    name: str = Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
    cron: str
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
    """The file.

    Attributes:
        profile: of the schedules that name none; its ``cluster`` section says where all of them are.
        settings: of all schedules.
        schedules: all of them: one of ours on the server that is not here is deleted.
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
        UsageError: it is not there, or not what it should be.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"there is no file of schedules at {path}: pipelines/schedules.yaml is one.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not readable YAML.") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} holds no schedules: write them as in pipelines/schedules.yaml.")
    try:
        return ScheduleFile.model_validate(values)
    except ValidationError as error:
        raise _explain(error, path, values) from error


def _explain(error: ValidationError, path: Path, values: dict[str, object]) -> UsageError:
    """One thing that is wrong, by the schedule's name where it has one."""
    faults = error.errors()  # a mistyped key comes before the one that is missing because of it
    first = next((fault for fault in faults if fault["type"] == "extra_forbidden"), faults[0])
    location = list(first["loc"])
    owner: type[Section] = ScheduleFile
    where = ""
    if location[:1] == ["schedules"] and len(location) > 1:
        listed = values["schedules"]
        entry = listed[location[1]] if isinstance(listed, list) and isinstance(location[1], int) else None
        name = entry.get("name") if isinstance(entry, dict) else None
        where, location, owner = f"schedule {name or location[1]}: ", location[2:], Schedule
        if location[:1] == ["data"]:
            owner = ScheduleData
    if first["type"] == "extra_forbidden":
        return UsageError(
            f"{path}: {where}unknown key {location[-1]!r}{did_you_mean(str(location[-1]), owner.model_fields)}"
        )
    key = ".".join(map(str, location))
    return UsageError(f"{path}: {where}{key}{': ' if key else ''}{first['msg'].removeprefix('Value error, ')}.")
