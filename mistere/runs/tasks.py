"""The names of a run's tasks: shards, the pipeline that they belong to, and their order."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from mistere.config.modalities import modalities_of
from mistere.config.stages import (
    DISTILLATION,
    MONITORING,
    RETRAINING,
    SCORING,
    PipelineName,
    every_stage,
    split_task,
    stages,
    task_titles,
)

_OPTIONAL: Final = frozenset(name for name, stage in stages().items() if stage.optional)
_SHARD = re.compile(r"^(?P<task>.+)-(?P<index>\d+)of\d+$")


def base_task(task: str) -> str:
    """The task that a shard belongs to; any other task itself."""
    match = _SHARD.match(task)
    return match["task"] if match else task


def pipeline_of(names: Iterable[str]) -> PipelineName:
    """The pipeline of a run by the names of tasks that have a record."""
    stages_of = (split_task(base_task(name))[0] for name in names)
    found = {every_stage()[stage].pipeline for stage in stages_of if stage}
    return next((name for name in (SCORING, MONITORING, DISTILLATION) if name in found), RETRAINING)


def ordered_tasks(names: Iterable[str], modalities: Iterable[str] = ()) -> list[str]:
    """The tasks of a run in the pipeline's order, without its exit handler; a sharded task is replaced by its shards.

    A task of an optional stage is named if it has a record.

    Args:
        names: the tasks that have a record.
        modalities: of the run; by default those that have a record.
    """
    names = list(names)
    seen = dict.fromkeys(modality for name in names if (modality := split_task(base_task(name))[1]))
    shards: dict[str, list[tuple[int, str]]] = {}
    recorded = set(names)
    for task in recorded:
        if match := _SHARD.match(task):
            shards.setdefault(match["task"], []).append((int(match["index"]), task))
    return [
        name
        for task in task_titles(tuple(modalities) or modalities_of(seen), pipeline_of(names))
        if task in recorded or split_task(task)[0] not in _OPTIONAL
        for name in ([task_name for _, task_name in sorted(shards[task])] if task in shards else [task])
    ]
