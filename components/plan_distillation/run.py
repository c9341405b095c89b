"""``plan_distillation``: complete the run's parameters, and pin the teacher and the data that it was made with. Never cached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from pydantic import Field

from mistere.artifacts.io import open_artifact, read_manifest
from mistere.artifacts.manifests import ModelBundle, UtteranceSet
from mistere.artifacts.object_store import MissingObjectError, ObjectStore
from mistere.artifacts.signing import verify_bundle
from mistere.common.errors import ArtifactError, UsageError
from mistere.config.base import Section
from mistere.config.loader import Config, complete_config
from mistere.engine.execution import execute
from mistere.engine.run_settings import declared_config, is_complete, run_context
from mistere.engine.stage import Result, Stage, Step
from mistere.registry.release.champion import chosen_bundle
from mistere.runs.run_info import unrecorded_origin, write_run_info

SECTIONS: Final = ("distillation", "validation", "evaluation", "gate", "registry")
"""The sections of the configuration that are parameters of the pipeline."""


class PlanParameters(Section):
    """The run's parameters as the pipeline received them.

    Attributes:
        modalities: those that the pipeline was compiled for.
        compiled: the complete sections of the profile that it was compiled from, by name; none for a local run.
        given: sections, of which each may name only some of its settings.
        complete: whether ``mistere`` passed the run's context, and so has recorded how the run was started.
        bundle_key: public keys as PEM text, one of which must have signed the teacher; empty for none.
    """

    modalities: list[str] = Field(default_factory=list)
    compiled: dict[str, dict[str, Any]] = Field(default_factory=dict)
    given: dict[str, dict[str, Any]] = Field(default_factory=dict)
    complete: bool = True
    bundle_key: str = ""

    def config(self) -> Config:
        """The configuration with these sections.

        Raises:
            UsageError: an unknown setting, or an invalid value.
        """
        return complete_config(self.compiled, self.given, declared_config())


STAGE: Final = Stage(name="plan_distillation", config=PlanParameters, cached=False)


class Plan(NamedTuple):
    """What the other steps of the run get."""

    context: dict[str, Any]
    values: Mapping[str, str]
    data: dict[str, Any]
    sections: dict[str, dict[str, Any]]


def plan(run: Mapping[str, Any], job: str, compiled: Mapping[str, Any], given: Mapping[str, Any]) -> Plan:
    """Complete the parameters of a run and resolve what it depends on.

    Args:
        run: the run's context, as the pipeline received it.
        job: the id of the run in Kubeflow Pipelines.
        compiled: the ``profile`` that the pipeline was compiled from, its ``sections``, and its ``modalities``.
        given: the sections, as the pipeline received them.

    Raises:
        UsageError: a setting is unknown, there is no such teacher or it cannot be distilled, or its data is unknown.
    """
    context = run_context(run, job, str(compiled.get("profile", "")), takes_data=False)
    parameters = {
        "modalities": compiled.get("modalities", []),
        "compiled": compiled.get("sections", {}),
        "given": dict(given),
        "complete": is_complete(run),
        "bundle_key": compiled.get("bundle_key", ""),
    }
    values = execute(STAGE, context.model_dump(mode="json"), parameters)
    config = PlanParameters.model_validate(parameters).config()
    sections = {name: config.section(name) for name in SECTIONS}
    sections["registry"]["model_name"] = values["model_name"]
    sections["validation"]["quarantine"] = values["quarantine"] == "true"
    resolved = {name: values[name] for name in ("data_digest", "data_remote")}
    data = {"max_dialogues": int(values["max_dialogues"])} if values["max_dialogues"] else {}
    return Plan(context.model_copy(update=resolved).model_dump(mode="json"), values, data, sections)


def run(config: PlanParameters, step: Step) -> Result:
    """Check the settings and the teacher as far as that is cheap, and pin the run to teacher and data.

    Args:
        config: the run's parameters.
        step: this execution.

    Raises:
        UsageError: a setting is unknown, there is no such teacher or it cannot be distilled, or its data is unknown.
        MistereError: the registry cannot be reached.
    """
    from mistere.registry.mlflow.connection import check_tracking

    whole = config.config()
    digest, _ = chosen_bundle(step.store, whole.distillation.teacher, "distillation.teacher")
    handle = open_artifact(step.store, ModelBundle, digest)
    verify_bundle(step.store, handle, config.bundle_key)
    teacher = handle.manifest
    check_teacher(teacher, config.modalities, named=bool(whole.distillation.teacher))
    check_tracking(step.run.tracking_uri)
    known = _data_of(step.store, teacher)
    data, remote = step.run.data_digest, step.run.data_remote
    if not data and known is not None:
        data, remote = known.dvc_digest, known.remote
    if not data:
        raise UsageError(
            f"{step.store.uri} does not say what data the teacher {digest[:12]} was made with: name it with `mistere submit --data`."
        )
    step.progress(f"teacher {digest[:12]}, data {data[:12]}")
    source = step.run.data_digest or "the teacher's data"
    parameters = {name: whole.section(name) for name in SECTIONS}
    origin = unrecorded_origin(step.store, step.run.schedule, whole, parameters, source, recorded=config.complete)
    if origin is not None:
        context = step.run.model_copy(update={"data_digest": data, "data_remote": remote})
        write_run_info(step.store, context, origin)
    quarantine = bool(getattr(whole.validation, "quarantine", False)) or bool(known and known.quarantined)
    return Result(
        values={
            "teacher_digest": digest,
            "model_name": teacher.name,
            "data_digest": data,
            "data_remote": remote,
            "max_dialogues": str((known and known.max_dialogues) or ""),
            "quarantine": str(quarantine).lower(),
            "margin": str(whole.distillation.margin),
            "code_state": step.run.code_state,
        }
    )


def check_teacher(teacher: ModelBundle, modalities: Sequence[str], *, named: bool) -> None:
    """Check that the pipeline can make a student of the teacher.

    Args:
        teacher: the bundle.
        modalities: those that the pipeline is compiled for.
        named: whether a setting names it; otherwise it is the champion.

    Raises:
        UsageError: it cannot.
    """
    if teacher.teacher is not None and not named:
        raise UsageError(
            f"the champion is a student of {teacher.teacher.bundle_digest[:12]} itself: set distillation.teacher to the bundle to distil."
        )
    title = f"the teacher {teacher.digest[:12]}"
    if not teacher.encoders:
        raise UsageError(
            f"{title} takes vectors and has no encoders, so there is nothing to make smaller: set distillation.teacher."
        )
    if teacher.transcription is not None:
        raise UsageError(f"{title} has a model for transcription, which no student has: set distillation.teacher.")
    if missing := [name for name in teacher.encoders if name not in modalities]:
        raise UsageError(
            f"{title} reads {missing[0]}, and this pipeline was compiled for {', '.join(modalities)}: compile it from the teacher's profile."
        )


def _data_of(store: ObjectStore, teacher: ModelBundle) -> UtteranceSet | None:
    """The reference to the data that the teacher was made with; None if the store does not hold it."""
    digest = teacher.inputs.get("utterances", "")
    try:
        return read_manifest(store, UtteranceSet, digest) if digest else None
    except (ArtifactError, MissingObjectError):
        return None
