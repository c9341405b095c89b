"""``train_moe``: train the mixture on embeddings; epoch and calibration are selected on dev, and test is not read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import EmbeddingSet, MoEModel
from mistere.config.mixture import MixtureConfig
from mistere.engine.stage import Result, Stage, Step

STAGE = Stage(
    name="train_moe",
    config=MixtureConfig,
    inputs={"vectors": EmbeddingSet},
    by_modality=frozenset({"vectors"}),
    outputs={"model": MoEModel},
    imports=("torch", "torch._dynamo", "scipy.optimize"),
)


def run(
    config: MixtureConfig,
    step: Step,
    vectors: Mapping[str, ArtifactHandle[EmbeddingSet]],
    model: Path,
) -> Result:
    """Train and write the mixture.

    Args:
        config: the ``mixture`` section.
        step: this execution.
        vectors: vectors, or their absence, by modality.
        model: folder of the output artifact.
    """
    from mistere.model.embeddings import EmbeddedDialogues
    from mistere.model.mixture.automatic_settings import TrainSize, automatic_values
    from mistere.model.mixture.input_scaling import column_notes
    from mistere.model.mixture.modality_subsets import train_with_modalities
    from mistere.model.mixture.prediction import save_mixture

    sets = list(vectors.values())
    data = EmbeddedDialogues.open(sets)
    notes = column_notes(config, data.only(config.modalities))
    for note in notes:
        step.progress.note(note)
    trained, choice = train_with_modalities(config, data, progress=step.progress, checkpoints=step.checkpoints)
    save_mixture(trained.model, model)
    present = [one.manifest for one in sets if one.manifest.modality in trained.model.dimensions]
    return Result(
        manifests={
            "model": MoEModel(
                labels=data.labels,
                dimensions=dict(trained.model.dimensions),
                experts=trained.model.experts,
                parameters=sum(parameter.numel() for parameter in trained.model.parameters()),
                temperature=trained.temperature,
                encoders={manifest.modality: manifest.encoder for manifest in present},
                metrics={"dev.weighted_f1": trained.dev_weighted_f1, "epoch": float(trained.epoch)}
                | (choice.metrics() if choice else {}),
                history=trained.history,
                automatic=automatic_values(config, TrainSize.of(data.only(list(trained.model.dimensions)))),
                notes=notes,
            )
        }
    )
