"""Register a student as a version of the registry that waits for a person: what made it, its verdict and its figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mistere.artifacts.identities import RunIdentity
from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import EvaluationReport, GateVerdict, ModelBundle, MoEModel, UtteranceSet
from mistere.config.loader import Config
from mistere.config.registry import RegistryConfig
from mistere.engine.stage import RunContext
from mistere.registry.lineage import TeacherVersion
from pipelines.cli.registry_location import RegistryLocation


def teacher_in(location: RegistryLocation, teacher: ModelBundle) -> TeacherVersion:
    """The teacher's version in the registry, if it has one.

    Raises:
        MistereError: the registry cannot be read.
        ArtifactError: it is not the store's.
    """
    from mistere.registry.mlflow.connection import check_tracking
    from mistere.registry.mlflow.model_registry import find_teacher, registered_versions

    check_tracking(location.tracking_uri)
    location.require_registered(registered_versions(location.tracking_uri, teacher.name))
    return find_teacher(location.tracking_uri, teacher.name, teacher.digest)


def register_student(
    location: RegistryLocation,
    context: RunContext,
    config: Config,
    student: ArtifactHandle[ModelBundle],
    place: str,
    teacher: TeacherVersion,
    utterances: UtteranceSet,
    model: MoEModel,
    report: EvaluationReport,
    verdict: GateVerdict,
    figures: Mapping[str, Any],
    note: Callable[[str], object],
) -> Mapping[str, str]:
    """Register the bundle, unless the verdict rejects it; the same bundle is one version.

    Args:
        location: store and registry.
        context: of the distillation.
        config: the sections ``distillation`` and ``registry``.
        student: the published bundle.
        place: its location.
        teacher: what it learnt from.
        utterances: the dataset.
        model: the student's mixture.
        report: its evaluation, paired with the teacher's.
        verdict: on the student.
        figures: the content of ``distill.json``.
        note: receives a sentence for each thing done.

    Returns:
        As :func:`components.register_model.registration.register_bundle`.
    """
    from components.register_model.registration import register_bundle, student_tags
    from mistere.registry.lineage import Lineage
    from mistere.registry.mlflow.run_logging import RunRecord, start_facts

    bundle, settings = student.manifest, config.distillation
    identity = RunIdentity.model_validate(
        {**context.identity.model_dump(), "run_id": f"distill-{bundle.digest[:12]}", "profile": ""}
    )
    lineage = Lineage.of(
        bundle,
        place,
        identity,
        utterances.dataset,
        model,
        report,
        verdict,
        {"utterances": utterances.digest},
        {"distillation": settings.model_dump(mode="json")},
        teacher=teacher,
    )
    info = {
        **identity.model_dump(),
        "config": {name: config.section(name) for name in ("distillation", "evaluation")},
        "changed": {"distillation": settings.model_dump(mode="json"), "teacher": str(teacher)},
        "command": f"mistere distill {teacher.bundle_digest[:12]}",
    }
    record = RunRecord(
        run_id=identity.run_id,
        metrics={**report.metrics, **report.runtime, **_metrics(figures)},
        histories={"distill_mixture": model.history},
        dataset=utterances.dataset,
        **start_facts(info),
    )
    registry = RegistryConfig(model_name=bundle.name, experiment=config.registry.experiment, release="approval")
    return register_bundle(
        location.store,
        location.tracking_uri,
        registry,
        student,
        lineage,
        record,
        report,
        verdict,
        note,
        {**student_tags(verdict), **_tags(figures)},
    )


def _metrics(figures: Mapping[str, Any]) -> dict[str, float]:
    """Size, time, memory and weighted F1 on dev of both models, as far as they were measured."""
    found = {
        f"{whose}.{name}": figures[whose][name]
        for whose in ("teacher", "student")
        for name in ("size_mb", "turn_ms", "peak_mb")
    }
    found |= {
        f"{whose}.dev.weighted_f1": figures[whose]["dev_weighted_f1"]["value"] for whose in ("teacher", "student")
    }
    found["student.speedup"] = figures["speedup"]
    return {name: float(value) for name, value in found.items() if value is not None}


def _tags(figures: Mapping[str, Any]) -> dict[str, str]:
    speed = figures["speedup"]
    return {
        "size_mb": str(figures["student"]["size_mb"]),
        "speedup": "not measured" if speed is None else str(speed),
    }
