"""The bundle of a student: the same form as that of any released model, and the teacher in its lineage."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from mistere.artifacts.identities import Teacher
from mistere.artifacts.io import ArtifactHandle, open_artifact, publish
from mistere.artifacts.manifest import MadeBy
from mistere.artifacts.manifests import (
    DataProfile,
    EncoderCheckpoint,
    EvaluationReport,
    ModelBundle,
    MoEModel,
    Provenance,
    UtteranceSet,
)
from mistere.artifacts.object_store import MissingObjectError, ObjectStore
from mistere.common.errors import ArtifactError
from mistere.config.distillation import DistillationConfig
from mistere.config.registry import RegistryConfig
from mistere.engine.stage import RunContext

_PROFILE = "data_profile.json"


def publish_student(
    store: ObjectStore,
    context: RunContext,
    teacher: ArtifactHandle[ModelBundle],
    config: DistillationConfig,
    utterances: ArtifactHandle[UtteranceSet],
    encoders: Mapping[str, ArtifactHandle[EncoderCheckpoint]],
    model: ArtifactHandle[MoEModel],
    report: ArtifactHandle[EvaluationReport],
    profile: ArtifactHandle[DataProfile] | None,
    verdict: str,
    files: Path,
) -> ArtifactHandle[ModelBundle]:
    """Write the student's bundle to the store.

    Args:
        store: the object store.
        context: of the run.
        teacher: the model that it learnt from.
        config: the ``distillation`` section.
        utterances: the dataset.
        encoders: the student's encoders, by modality.
        model: its mixture.
        report: its evaluation.
        profile: statistics of the dataset; None if it is the teacher's.
        verdict: on the student.
        files: an empty folder.
    """
    from components.register_model.run import assemble, describe
    from mistere.data.scripts import trained_scripts
    from mistere.registry.lineage import lock_digest
    from mistere.serving.traffic.reference import write_reference

    named = RegistryConfig(model_name=teacher.manifest.name)
    bundle = assemble(named, utterances.manifest, list(encoders.values()), model, report, files)
    lesson = Teacher(bundle_digest=teacher.manifest.digest, settings=config.for_student())
    reads_text = "text" in teacher.manifest.encoders
    if profile is None:
        trained, scripts = teacher.manifest.scripts, _scripts(store, teacher.manifest)
        if _PROFILE in teacher.manifest.files:
            shutil.copyfile(teacher.file(_PROFILE), files / _PROFILE)
    else:
        scripts = profile.manifest.scripts if reads_text else {}
        trained = trained_scripts(scripts) if reads_text else []
        for name in profile.manifest.files:
            shutil.copyfile(profile.file(name), files / name)
    bundle = bundle.model_copy(update={"teacher": lesson, "scripts": trained})
    write_reference(bundle, report, scripts, files)
    describe(bundle, utterances.manifest, report.manifest, files)
    provenance = Provenance(
        run=context.identity, lock=lock_digest(), evaluation_digest=report.manifest.digest, verdict=verdict
    )
    made_by = MadeBy(stage="distill", key="", code="", run=context.identity)
    inputs = {
        "teacher": teacher.manifest.digest,
        "utterances": utterances.manifest.digest,
        **{f"encoders.{name}": encoder.manifest.digest for name, encoder in encoders.items()},
        "model": model.manifest.digest,
        "report": report.manifest.digest,
    }
    facts = {"provenance": provenance, "made_by": made_by, "inputs": inputs}
    published = publish(store, bundle.model_copy(update=facts), files)
    return open_artifact(store, ModelBundle, published.digest)


def _scripts(store: ObjectStore, teacher: ModelBundle) -> Mapping[str, int]:
    """How many texts of train have each script, by the profile that the teacher was made with, if the store still holds it."""
    digest = teacher.inputs.get("profile", "")
    if not digest or "text" not in teacher.encoders:
        return {}
    try:
        return open_artifact(store, DataProfile, digest).manifest.scripts
    except (ArtifactError, MissingObjectError):
        return {}
