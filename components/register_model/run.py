"""``register_model``: publish the bundle, sign it if a key is set, and register it in MLflow as a candidate with its verdict."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mistere.artifacts.identities import EncoderDescription, Teacher
from mistere.artifacts.io import ArtifactHandle, artifact_key, open_artifact
from mistere.artifacts.manifest import Manifest, canonical_digest
from mistere.artifacts.manifests import (
    DataProfile,
    EncoderCheckpoint,
    EvaluationReport,
    GateVerdict,
    ModelBundle,
    MoEModel,
    Provenance,
    UtteranceSet,
)
from mistere.config.distillation import DistillationConfig
from mistere.config.registry import RegistryConfig
from mistere.engine.stage import Result, Stage, Step

STAGE = Stage(
    name="register_model",
    config=RegistryConfig,
    inputs={
        "utterances": UtteranceSet,
        "profile": DataProfile,
        "encoders": EncoderCheckpoint,
        "model": MoEModel,
        "report": EvaluationReport,
        "verdict": GateVerdict,
    },
    by_modality=frozenset({"encoders"}),
    outputs={"bundle": ModelBundle},
    imports=("mlflow", "mlflow.tracking"),
    cached=False,
)


def run(
    config: RegistryConfig,
    step: Step,
    utterances: ArtifactHandle[UtteranceSet],
    profile: ArtifactHandle[DataProfile],
    encoders: Mapping[str, ArtifactHandle[EncoderCheckpoint]],
    model: ArtifactHandle[MoEModel],
    report: ArtifactHandle[EvaluationReport],
    verdict: ArtifactHandle[GateVerdict],
    bundle: Path,
    teacher: str = "",
) -> Result:
    """Assemble and register the bundle.

    Args:
        config: the ``registry`` section.
        step: this execution.
        utterances: the dataset, for the lineage.
        profile: statistics of the dataset, which the bundle includes.
        encoders: the encoder, or its absence, by modality.
        model: the mixture.
        report: the evaluation.
        verdict: the gate's verdict: a model that it holds is registered too, and waits for a person.
        bundle: folder of the output artifact.
        teacher: for a student, what it learnt from (:func:`teacher_of`); it waits for a person whatever the section says.
    """
    from components.register_model.registration import register_bundle, student_tags
    from mistere.data.scripts import trained_scripts
    from mistere.kubernetes.images import image
    from mistere.registry.lineage import Lineage, lock_digest
    from mistere.registry.mlflow.model_registry import find_teacher
    from mistere.registry.mlflow.run_logging import RunRecord, start_facts
    from mistere.runs.outcome import read_run_info
    from mistere.serving.traffic.reference import write_reference

    lesson = Teacher.model_validate_json(teacher) if teacher else None
    if lesson is not None:
        config = config.model_copy(update={"release": "approval"})
    made: list[Manifest] = [one.manifest for one in encoders.values() if not one.manifest.absent]
    provenance = Provenance(
        run=step.run.identity,
        image=image("train"),
        lock=lock_digest(),
        evaluation_digest=report.manifest.digest,
        verdict=verdict.manifest.verdict,
        compute_seconds=_compute_seconds([*made, model.manifest]),
        usage={by.stage: by.usage for one in (*made, model.manifest) if (by := one.made_by)},
    )
    manifest = assemble(config, utterances.manifest, list(encoders.values()), model, report, bundle)
    if "text" in manifest.encoders:
        manifest = manifest.model_copy(update={"scripts": trained_scripts(profile.manifest.scripts)})
    manifest = manifest.model_copy(update={"teacher": lesson})
    for name in profile.manifest.files:
        shutil.copyfile(profile.file(name), bundle / name)
    scripts = profile.manifest.scripts if "text" in manifest.encoders else {}
    write_reference(manifest, report, scripts, bundle)
    describe(manifest, utterances.manifest, report.manifest, bundle)
    manifest = manifest.model_copy(update={"provenance": provenance})
    info = read_run_info(step.store, step.run.run_id)

    def enter(published: Mapping[str, Manifest]) -> Mapping[str, str]:
        digest = published["bundle"].digest
        location = step.store.location(artifact_key(ModelBundle.__name__, digest))
        opened = open_artifact(step.store, ModelBundle, digest)
        lineage = Lineage.of(
            opened.manifest,
            location,
            step.run.identity,
            utterances.manifest.dataset,
            model.manifest,
            report.manifest,
            verdict.manifest,
            {
                "utterances": utterances.manifest.digest,
                **{f"{modality} encoder": encoder.manifest.digest for modality, encoder in encoders.items()},
            },
            info.get("config") or {},
            teacher=find_teacher(step.run.tracking_uri, config.model_name, lesson.bundle_digest) if lesson else None,
            data_endpoint=str((info.get("data") or {}).get("endpoint", "")),
            image=provenance.image,
        )
        record = RunRecord(
            run_id=step.run.run_id,
            metrics={**report.manifest.metrics, **report.manifest.runtime, **training_costs(provenance, config)},
            histories={
                "distill_mixture" if lesson else "train_moe": model.manifest.history,
                **{
                    f"{'distill' if lesson else 'finetune'}_encoder.{modality}": e.manifest.history
                    for modality, e in encoders.items()
                },
            },
            dataset=utterances.manifest.dataset,
            **start_facts({**step.run.identity.model_dump(), **info}),
        )
        judged = report.manifest, verdict.manifest
        tags = student_tags(verdict.manifest) if lesson else {}
        return register_bundle(
            step.store, step.run.tracking_uri, config, opened, lineage, record, *judged, step.progress.note, tags
        )

    return Result(manifests={"bundle": manifest}, on_published=enter)


def teacher_of(distillation: Mapping[str, Any], digest: str) -> str:
    """What a student learnt from, as JSON.

    Args:
        distillation: the section; Kubeflow Pipelines has made floats of its integers.
        digest: the teacher's bundle.
    """
    settings = DistillationConfig.model_validate(dict(distillation)).for_student()
    return Teacher(bundle_digest=digest, settings=settings).model_dump_json()


def assemble(
    config: RegistryConfig,
    data: UtteranceSet,
    encoders: list[ArtifactHandle[EncoderCheckpoint]],
    model: ArtifactHandle[MoEModel],
    report: ArtifactHandle[EvaluationReport],
    folder: Path,
) -> ModelBundle:
    """Copy the fine-tuned weights and the example into the bundle's folder; base weights stay separate artifacts."""
    for name in model.manifest.files:
        shutil.copyfile(model.file(name), folder / name)
    bundled: dict[str, EncoderDescription] = {}
    (folder / "encoders").mkdir()
    for opened in encoders:
        made = opened.manifest
        if made.absent or made.modality not in model.manifest.encoders:
            continue
        shutil.copyfile(opened.file("tuned.safetensors"), folder / "encoders" / f"{made.modality}.safetensors")
        identity = model.manifest.encoders[made.modality]
        bundled[made.modality] = made.encoder.model_copy(update={"identity": identity})
    if (report.path / "example").is_dir():
        shutil.copytree(report.path / "example", folder / "example")
    used = [one for one in encoders if one.manifest.modality in bundled]
    return ModelBundle(
        name=config.model_name,
        labels=model.manifest.labels,
        experts=model.manifest.experts,
        encoders=bundled,
        temperature=model.manifest.temperature,
        test_digest=report.manifest.test_digest,
        metrics={name: value for name, value in report.manifest.metrics.items() if name.startswith("test.")},
        dvc_digest=data.dvc_digest,
        digests=_digests(data, used, model),
        transcription=data.transcription.model if data.transcription else None,
    )


def describe(bundle: ModelBundle, data: UtteranceSet, report: EvaluationReport, folder: Path) -> None:
    """Write the files that describe the bundle: model card, signature, and its fields as JSON."""
    from components.register_model.mlflow_model import write_mlflow_model
    from components.register_model.model_card import TrainingData, model_card
    from mistere.artifacts.signing import write_description
    from mistere.data.croissant import CardFacts, write_data_card

    card = model_card(bundle, TrainingData.of(data), report, example=(folder / "example").is_dir())
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8")
    write_data_card(CardFacts.of_reference(data), folder)
    write_mlflow_model(folder, bundle, data.kinds)
    write_description(folder, bundle)


def _digests(
    data: UtteranceSet, encoders: list[ArtifactHandle[EncoderCheckpoint]], model: ArtifactHandle[MoEModel]
) -> dict[str, str]:
    """Digests of every part that the model is made from."""
    from mistere.config.encoder import PREPROCESSING

    digests: dict[str, str] = {}
    for encoder in encoders:
        manifest = encoder.manifest
        preprocessing: dict[str, Any] = {key: manifest.encoder.settings.get(key) for key in sorted(PREPROCESSING)}
        digests |= {
            f"{manifest.modality} base encoder": manifest.encoder.base_digest,
            f"{manifest.modality} fine-tuned weights": manifest.files["tuned.safetensors"].sha256,
            f"{manifest.modality} preprocessing": canonical_digest(preprocessing),
            f"{manifest.modality} encoder": manifest.encoder.identity.digest,
        }
    if data.transcription is not None:
        digests["transcription model"] = data.transcription.model.base_digest
    return {
        **digests,
        "mixture": model.manifest.files["mixture.safetensors"].sha256,
        "label map": canonical_digest(model.manifest.labels),
        "dataset": data.dvc_digest,
        "test split": data.test_digest,
    }


def training_costs(provenance: Provenance, config: RegistryConfig) -> dict[str, float]:
    """What fine-tuning and training cost, in the run that did it, as metrics."""
    from mistere.runs.costs import costs_of, total_costs

    costs = total_costs([costs_of(usage, config.costs) for usage in provenance.usage.values()])
    return costs.metrics("cost.training.")


def _compute_seconds(manifests: list[Manifest]) -> dict[str, float]:
    """Seconds of fine-tuning and training, by device."""
    seconds: dict[str, float] = {}
    for manifest in manifests:
        by = manifest.made_by
        if by is not None and by.device:
            seconds[by.device] = round(seconds.get(by.device, 0.0) + by.seconds, 3)
    return seconds
