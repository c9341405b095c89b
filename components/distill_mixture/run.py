"""``distill_mixture``: train a student's mixture on the calibrated probabilities and expert weights of its teacher's, and on the labels.

The student has the teacher's settings and starts from its weights. Epoch, gate and calibration are selected on dev; test is not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import EmbeddingSet, MoEModel
from mistere.config.distillation import DistillationConfig
from mistere.engine.stage import Result, Stage, Step

STAGE = Stage(
    name="distill_mixture",
    config=DistillationConfig,
    inputs={"teacher": MoEModel, "teacher_vectors": EmbeddingSet, "vectors": EmbeddingSet},
    by_modality=frozenset({"teacher_vectors", "vectors"}),
    outputs={"model": MoEModel},
    imports=("torch", "torch._dynamo", "scipy.optimize"),
)


def run(
    config: DistillationConfig,
    step: Step,
    teacher: ArtifactHandle[MoEModel],
    teacher_vectors: Mapping[str, ArtifactHandle[EmbeddingSet]],
    vectors: Mapping[str, ArtifactHandle[EmbeddingSet]],
    model: Path,
) -> Result:
    """Train and write the mixture.

    Args:
        config: the ``distillation`` section.
        step: this execution.
        teacher: the mixture to learn from.
        teacher_vectors: the vectors that it takes, or their absence, by modality.
        vectors: the student's vectors, or their absence, by modality.
        model: folder of the output artifact.
    """
    from mistere.model.embeddings import EmbeddedDialogues
    from mistere.model.mixture.fitting.teacher import MixtureTeacher
    from mistere.model.mixture.input_scaling import column_notes
    from mistere.model.mixture.prediction import load_mixture, predict, save_mixture
    from mistere.model.mixture.training import train_mixture

    mixture = load_mixture(teacher.path)
    names = list(mixture.dimensions)
    taught = EmbeddedDialogues.open([teacher_vectors[name] for name in names]).only(names)
    train = taught.split("train")
    step.progress("predicting train with the teacher")
    answers = predict(mixture, [taught.read(one) for one in train], teacher.manifest.temperature)
    guide = MixtureTeacher(
        mixture,
        {one.dialogue_id: answer for one, answer in zip(train, answers, strict=True)},
        config.temperature,
        config.teacher_share,
        config.weights_weight,
    )
    sets = [vectors[name] for name in names]
    settings = mixture.config.model_copy(update={"seed": config.seed, "modalities": names})
    data = EmbeddedDialogues.open(sets).only(names)
    notes = column_notes(settings, data)
    for note in notes:
        step.progress.note(note)
    trained = train_mixture(
        settings,
        data,
        progress=step.progress,
        checkpoints=step.checkpoints,
        teacher=guide,
    )
    save_mixture(trained.model, model)
    return Result(
        manifests={
            "model": MoEModel(
                labels=teacher.manifest.labels,
                dimensions=dict(trained.model.dimensions),
                experts=trained.model.experts,
                parameters=sum(parameter.numel() for parameter in trained.model.parameters()),
                temperature=trained.temperature,
                encoders={one.manifest.modality: one.manifest.encoder for one in sets},
                metrics={"dev.weighted_f1": trained.dev_weighted_f1, "epoch": float(trained.epoch)},
                history=trained.history,
                notes=notes,
            )
        }
    )
