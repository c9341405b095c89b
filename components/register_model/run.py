"""``register_model``: the bundle in the store, a model version in MLflow, alias ``challenger``."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from components.core.artifact_io import Opened, artifact_key
from components.core.config.registry import RegistryConfig
from components.core.manifests import (
    BundledEncoder,
    DataProfile,
    EncoderCheckpoint,
    EvaluationReport,
    GateVerdict,
    Manifest,
    ModelBundle,
    MoEModel,
    UtteranceSet,
)
from components.core.stage import Result, Stage, Step

STAGE = Stage(
    name="register_model",
    config=RegistryConfig,
    inputs={
        "utterances": UtteranceSet,
        "profile": DataProfile,
        "speech": EncoderCheckpoint,
        "text": EncoderCheckpoint,
        "model": MoEModel,
        "report": EvaluationReport,
        "verdict": GateVerdict,
    },
    outputs={"bundle": ModelBundle},
    imports=("mlflow", "mlflow.tracking"),
    cached=False,
)


def run(
    config: RegistryConfig,
    step: Step,
    utterances: Opened[UtteranceSet],
    profile: Opened[DataProfile],
    speech: Opened[EncoderCheckpoint],
    text: Opened[EncoderCheckpoint],
    model: Opened[MoEModel],
    report: Opened[EvaluationReport],
    verdict: Opened[GateVerdict],
    bundle: Path,
) -> Result:
    """Assemble and register.

    Args:
        config: the ``registry`` section.
        step: this execution.
        utterances: the dataset, for the lineage.
        profile: the dataset in numbers, which goes into the bundle.
        speech: the speech encoder, or its absence.
        text: the text encoder, or its absence.
        model: the mixture.
        report: the evaluation.
        verdict: the gate's verdict, for the lineage.
        bundle: folder of the output artifact.
    """
    from components.core.registry import Lineage, register

    manifest = assemble(config, utterances.manifest, [speech, text], model, report.manifest, bundle)
    for name in profile.manifest.files:
        shutil.copyfile(profile.file(name), bundle / name)
    made_by = model.manifest.made_by

    def enter(published: Mapping[str, Manifest]) -> Mapping[str, str]:
        digest = published["bundle"].digest
        location = step.store.location(artifact_key(ModelBundle.__name__, digest))
        lineage = Lineage(
            run_id=step.run.run_id,
            bundle_digest=digest,
            bundle_location=location,
            dvc_digest=utterances.manifest.dvc_digest,
            dataset=utterances.manifest.name,
            commit=made_by.commit if made_by else "",
            dirty=made_by.dirty if made_by else False,
            verdict=verdict.manifest.verdict,
            encoder_digests=model.manifest.encoder_digests,
            encoder_sources=model.manifest.encoder_sources,
        )
        version = register(
            step.run.tracking_uri,
            config,
            lineage,
            metrics=report.manifest.metrics,
            parameters=made_by.config if made_by else {},
            histories={
                "train_moe": model.manifest.history,
                **{f"finetune_encoder.{e.manifest.modality}": e.manifest.history for e in (speech, text)},
            },
        )
        step.progress.note(f"registered as {config.model_name} version {version} (alias challenger).")
        return {"model_version": version, "model_name": config.model_name, "bundle_location": location}

    return Result(manifests={"bundle": manifest}, then=enter)


def assemble(
    config: RegistryConfig,
    data: UtteranceSet,
    encoders: list[Opened[EncoderCheckpoint]],
    model: Opened[MoEModel],
    report: EvaluationReport,
    folder: Path,
) -> ModelBundle:
    """Copy the fine-tuned parts into the bundle's folder; base weights stay blobs of their own."""
    for name in model.manifest.files:
        shutil.copyfile(model.file(name), folder / name)
    bundled: dict[str, BundledEncoder] = {}
    (folder / "encoders").mkdir()
    for opened in encoders:
        made = opened.manifest
        if made.absent:
            continue
        shutil.copyfile(opened.file("tuned.safetensors"), folder / "encoders" / f"{made.modality}.safetensors")
        bundled[made.modality] = BundledEncoder(
            family=made.family,
            source=made.source,
            precision=model.manifest.precisions.get(made.modality, "float32"),
            base_digest=made.base_digest,
            encoder_digest=made.encoder_digest,
            dimension=made.dimension,
            settings=made.settings,
        )
    return ModelBundle(
        name=config.model_name,
        labels=model.manifest.labels,
        experts=model.manifest.experts,
        encoders=bundled,
        temperature=model.manifest.temperature,
        test_digest=report.test_digest,
        metrics=report.metrics,
        dvc_digest=data.dvc_digest,
    )
