"""The stages: discovered from the folders under ``components/``, each with a ``stage.yaml`` beside its ``run.py``.

``stage.yaml`` holds what others must know of a stage and what changes no result: its place in the order, what a report calls
it, what its pod gets. Reports, the runs' outcome, the ``cluster`` section and the pods' settings read it from here; inputs,
outputs and configuration are declared as ``STAGE`` in ``run.py``, for the engine.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field, ValidationError

from mistere.common.errors import UsageError
from mistere.common.parsing.documents import ParseError, read_yaml
from mistere.common.paths import PROJECT_ROOT
from mistere.common.suggestions import did_you_mean
from mistere.config.base import Section
from mistere.config.modalities import DEFAULT_MODALITIES, name_problem

AFFECTS_RESULTS = False

_DECLARATION: Final = "stage.yaml"
PipelineName = Literal["retraining", "scoring", "monitoring", "distillation"]
RETRAINING: Final = "retraining"
SCORING: Final = "scoring"
MONITORING: Final = "monitoring"
DISTILLATION: Final = "distillation"
STUDENT_SUFFIX: Final = "-student"
"""Ends the name of a task that a distillation runs on the student, after another one of the same stage on the teacher."""


class StageInfo(Section):
    """What others must know of a stage.

    Attributes:
        doing: what the stage does, as a report continues "The run failed while …"; ``{modality}`` is replaced.
        after: the stage that it follows in lists of stages; empty for the first.
        pipeline: the pipeline that it is a part of; ``none`` for a stage that only a command runs.
        also: further pipelines that it is a part of.
        per_modality: whether the pipeline runs it once for each modality, as task ``STAGE-MODALITY``.
        student_after: the stage of a distillation after which this one runs again, on the student, as task ``STAGE-MODALITY-student``;
            empty for none.
        optional: whether it is part of a run only where a setting asks for it; lists of tasks name it once it has a record.
        exit_handler: whether it runs at the end of every run, whatever happened.
        secrets: secrets that its pod needs besides the object store's; ``signing`` and ``registry`` (the credentials of the images'
            registry) are mounted as files, the others become environment variables.
        settings: whether its pod gets the ConfigMap that completes a run's parameters.
        pod: what its pod gets by default: fields of :class:`mistere.config.cluster.StepSettings`.
    """

    doing: str = Field(min_length=1)
    after: str = ""
    pipeline: PipelineName | Literal["none"] = "retraining"
    also: tuple[PipelineName, ...] = ()
    per_modality: bool = False
    student_after: str = ""
    optional: bool = False
    exit_handler: bool = False
    secrets: tuple[Literal["tracking", "webhook", "signing", "registry"], ...] = ()
    settings: bool = False
    pod: dict[str, Any] = Field(default_factory=dict)

    def tasks(self, stage: str, modalities: Iterable[str] = DEFAULT_MODALITIES) -> dict[str, str]:
        """What each task of the stage does, by the task's name."""
        if not self.per_modality:
            return {stage: self.doing}
        return {f"{stage}-{modality}": self.doing.format(modality=modality) for modality in modalities}

    def student_tasks(self, stage: str, modalities: Iterable[str] = DEFAULT_MODALITIES) -> dict[str, str]:
        """What each task of the stage on the student of a distillation does, by the task's name."""
        tasks = self.tasks(stage, modalities) if self.student_after else {}
        return {f"{task}{STUDENT_SUFFIX}": f"{doing} for the student" for task, doing in tasks.items()}


@cache
def stages(
    components: Path = PROJECT_ROOT / "components", pipeline: PipelineName = "retraining"
) -> dict[str, StageInfo]:
    """The stages of a pipeline by the names of their folders, in the pipeline's order.

    Args:
        components: the folder that holds a folder for each stage.
        pipeline: which pipeline.

    Raises:
        UsageError: as :func:`every_stage`.
    """
    return {
        name: info
        for name, info in every_stage(components).items()
        if info.pipeline == pipeline or pipeline in info.also
    }


@cache
def every_stage(components: Path = PROJECT_ROOT / "components") -> dict[str, StageInfo]:
    """The stages of all pipelines by the names of their folders, those of each pipeline in its order.

    Args:
        components: the folder that holds a folder for each stage.

    Raises:
        UsageError: a ``stage.yaml`` is not valid, or names a stage that does not exist.
    """
    declarations = {path.parent.name: _read(path) for path in sorted(components.glob(f"*/{_DECLARATION}"))}
    for name, info in declarations.items():
        if (stage := info.student_after) and stage not in declarations:
            path = components / name / _DECLARATION
            raise UsageError(f"{path}: student_after: there is no stage {stage!r}{did_you_mean(stage, declarations)}")
    depths = {name: _depth(name, declarations, components) for name in declarations}
    return {name: declarations[name] for name in sorted(declarations, key=lambda name: (depths[name], name))}


def task_titles(
    modalities: Iterable[str] = DEFAULT_MODALITIES, pipeline: PipelineName = "retraining"
) -> dict[str, str]:
    """What each task of a run does, by the task's name and in the order of the pipeline, without the exit handler."""
    names, found = tuple(modalities), stages(pipeline=pipeline)
    titles: dict[str, str] = {}
    for stage, info in found.items():
        if info.exit_handler:
            continue
        titles |= info.tasks(stage, names)
        for other, again in found.items():
            if pipeline == DISTILLATION and again.student_after == stage:
                titles |= again.student_tasks(other, names)
    return titles


def task_title(task: str) -> str:
    """What a task does, by its name; empty if no stage has such a task."""
    stage, modality = split_task(task)
    if not stage:
        return ""
    info = every_stage()[stage]
    return {**info.tasks(stage, [modality]), **info.student_tasks(stage, [modality])}[task]


def split_task(task: str) -> tuple[str, str]:
    """The stage and the modality of a task by its name; both empty if no stage has such a task."""
    stage, _, modality = task.partition("-")
    info = every_stage().get(stage)
    if info is not None and info.student_after:
        modality = modality.removesuffix(STUDENT_SUFFIX)
    if info is None or info.per_modality == (not modality) or (modality and name_problem(modality)):
        return "", ""
    return stage, modality


def _read(path: Path) -> StageInfo:
    try:
        return StageInfo.model_validate(read_yaml(path))
    except ParseError as error:
        raise UsageError(f"{path} is not valid YAML: docs/extending/stage.md shows one.") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the file"
        raise UsageError(f"{path}: {field}: {first['msg']}; docs/extending/stage.md shows one.") from error


def _depth(name: str, declarations: dict[str, StageInfo], components: Path) -> int:
    """How many stages come before it on the way to the first."""
    before = [name]
    while after := declarations[before[-1]].after:
        path = components / before[-1] / _DECLARATION
        if after not in declarations:
            raise UsageError(f"{path}: after: there is no stage {after!r}{did_you_mean(after, declarations)}")
        if after in before:
            raise UsageError(f"{path}: after: {after} itself comes after {before[-1]}: name an earlier stage.")
        before.append(after)
    return len(before)
