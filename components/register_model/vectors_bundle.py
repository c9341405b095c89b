"""Assemble the bundle of a mixture that takes vectors: no encoders, but the identity of those that made the vectors."""

from __future__ import annotations

import shutil
from pathlib import Path

from components.register_model.mlflow_model import write_mlflow_model
from components.register_model.model_card import TrainingData, model_card
from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifest import canonical_digest
from mistere.artifacts.manifests import DataProfile, EvaluationReport, ModelBundle, MoEModel
from mistere.artifacts.signing import write_description
from mistere.serving.traffic.reference import write_reference


def assemble_vectors(
    name: str,
    model: ArtifactHandle[MoEModel],
    report: ArtifactHandle[EvaluationReport],
    data: TrainingData,
    profile: ArtifactHandle[DataProfile] | None,
    folder: Path,
) -> ModelBundle:
    """Write the files of the bundle and return its manifest.

    Args:
        name: of the model.
        model: the mixture.
        report: its evaluation, with the example dialogue.
        data: what is known of the training's data.
        profile: statistics of the dataset, if the vectors are those of a run.
        folder: the bundle's folder.
    """
    for file in model.manifest.files:
        shutil.copyfile(model.file(file), folder / file)
    if (report.path / "example").is_dir():
        shutil.copytree(report.path / "example", folder / "example")
    if profile is not None:
        for file in profile.manifest.files:
            shutil.copyfile(profile.file(file), folder / file)
    encoders = model.manifest.encoders
    bundle = ModelBundle(
        name=name,
        labels=model.manifest.labels,
        experts=model.manifest.experts,
        encoders={},
        vectors=encoders,
        temperature=model.manifest.temperature,
        test_digest=report.manifest.test_digest,
        metrics={key: value for key, value in report.manifest.metrics.items() if key.startswith("test.")},
        dvc_digest=data.dvc_digest,
        digests={
            **{f"{modality} encoder": made.digest for modality, made in encoders.items() if made.digest},
            "mixture": model.manifest.files["mixture.safetensors"].sha256,
            "label map": canonical_digest(model.manifest.labels),
            **({"dataset": data.dvc_digest} if data.dvc_digest else {}),
            **({"embeddings": data.embeddings} if data.embeddings else {}),
            "test split": report.manifest.test_digest,
        },
    )
    write_reference(bundle, report, {}, folder)
    widths = model.manifest.dimensions
    (folder / "README.md").write_text(
        model_card(bundle, data, report.manifest, widths, example=(folder / "example").is_dir()), encoding="utf-8"
    )
    write_mlflow_model(folder, bundle, {}, widths)
    write_description(folder, bundle)
    return bundle
