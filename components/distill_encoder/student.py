"""The student's encoder: what it starts from, the examples that it learns from, and its checkpoint."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from components.distill_encoder.training import Examples, train
from mistere.artifacts.identities import EncoderDescription, EncoderIdentity
from mistere.artifacts.io import ArtifactHandle, open_artifact, publish
from mistere.artifacts.manifest import canonical_digest
from mistere.artifacts.manifests import BaseEncoder, EmbeddingSet, EncoderCheckpoint, UtteranceSet
from mistere.common.digests.files import digest_of
from mistere.common.errors import DataError
from mistere.common.modalities import cell_of
from mistere.common.parsing.parquet import read_parquet
from mistere.common.splits import Split
from mistere.config.distillation import DistillationConfig
from mistere.config.encoder import PREPROCESSING, EncoderConfig
from mistere.data.dataset import Utterance
from mistere.data.kinds import kind_of
from mistere.data.kinds.kind import UnreadableError
from mistere.data.utterances import FeatureSpool, PreviousTurns, UtteranceReader
from mistere.engine.stage import Step
from mistere.model.embeddings import UNLABELLED, UTTERANCES_FILE
from mistere.model.encoders.device import choose_device
from mistere.model.encoders.families import families
from mistere.model.encoders.preparation import Features, prepared
from mistere.model.encoders.sources import resolve_base
from mistere.model.encoders.utterance_encoder import UtteranceEncoder, load_tuned, save_tuned

SPEECH_SOURCE: Final = "measured:convolutional"
"""The family of a student's speech encoder."""
_SPLITS: Final[tuple[Split, Split]] = ("train", "dev")


@dataclass(frozen=True)
class _Start:
    """What a student starts from.

    Attributes:
        base: its base.
        settings: its section.
        keeps_layers: whether it keeps layers of the teacher's.
        encoder: the encoder, with what it takes over of the teacher's.
    """

    base: ArtifactHandle[BaseEncoder]
    settings: EncoderConfig
    keeps_layers: bool
    encoder: UtteranceEncoder


def distill(
    config: DistillationConfig,
    step: Step,
    reference: UtteranceSet,
    teacher: ArtifactHandle[EncoderCheckpoint],
    vectors: ArtifactHandle[EmbeddingSet],
    output: Path,
) -> EncoderCheckpoint:
    """Train the student and write its trained parts to ``output``.

    Raises:
        UsageError: ``distillation.device`` requires a GPU and there is none.
        DataError: train or dev has no utterance with the modality.
        MistereError: as :func:`components.distill_encoder.training.train`.
    """
    made, modality = teacher.manifest, teacher.manifest.modality
    old = _teacher(step, teacher)
    family = old.family
    if not family.shortens and family.kind != "audio":
        step.progress.note(
            f"the student keeps the teacher's {modality} encoder: there is no small family for {family.kind}."
        )
        shutil.copyfile(teacher.file("tuned.safetensors"), output / "tuned.safetensors")
        return EncoderCheckpoint(modality=modality, labels=made.labels, encoder=made.encoder, metrics=made.metrics)
    device = choose_device(config.device, "distillation.device")
    reader = UtteranceReader(reference, _SPLITS, store=step.store)
    head = [parameter.detach().clone() for parameter in old.head.parameters()]
    torch.manual_seed(config.seed)
    start = _start(config, step, made, old, reader)
    with tempfile.TemporaryDirectory() as scratch:
        rows = _rows(vectors)
        matrix = np.load(vectors.file(f"{modality}.npy"), mmap_mode="r", allow_pickle=False)
        examples = {
            split: _examples(reader, split, modality, start, matrix, rows, Path(scratch) / split, step)
            for split in _SPLITS
        }
        history = train(
            config,
            start.encoder,
            head,
            examples["train"],
            examples["dev"],
            step,
            device,
            keeps_layers=start.keeps_layers,
        )
    start.encoder.backbone.half()  # as the base; loading converts them to float32
    save_tuned(start.encoder.eval(), output)
    base, settings = start.base.manifest, start.settings
    return EncoderCheckpoint(
        modality=modality,
        labels=made.labels,
        encoder=EncoderDescription(
            identity=EncoderIdentity(
                source=base.source,
                digest=canonical_digest(
                    [
                        base.digest,
                        digest_of(output / "tuned.safetensors"),
                        settings.model_dump(mode="json", include={*PREPROCESSING, "pooling", "projection"}),
                    ]
                ),
                test_digest=reference.test_digest,
            ),
            family=base.family,
            base_digest=base.digest,
            dimension=settings.projection,
            settings=settings.for_checkpoint(),
        ),
        metrics={"dev.weighted_f1": max(history, key=lambda epoch: -epoch["dev_loss"])["dev_weighted_f1"]},
        history=history,
    )


def _teacher(step: Step, teacher: ArtifactHandle[EncoderCheckpoint]) -> UtteranceEncoder:
    """The teacher's encoder, in evaluation mode."""
    made = teacher.manifest
    base = open_artifact(step.store, BaseEncoder, made.encoder.base_digest)
    settings = EncoderConfig.model_validate(made.encoder.settings)
    family = families()[made.encoder.family](base.path, settings)
    return load_tuned(family, settings, len(made.labels), teacher.file("tuned.safetensors"))


def _start(
    config: DistillationConfig, step: Step, teacher: EncoderCheckpoint, old: UtteranceEncoder, reader: UtteranceReader
) -> _Start:
    """The student before its training."""
    shortens = old.family.shortens and not (old.family.kind == "audio" and config.audio_encoder == "convolutional")
    changes: dict[str, Any] = {
        "tuning": "full",
        "epochs": config.epochs if shortens else config.new_epochs,
        "batch_size": config.batch_size,
        "learning_rate": config.learning_rate,
        "head_learning_rate": config.new_learning_rate,
        "weight_decay": config.weight_decay,
        "seed": config.seed,
    }
    if shortens:
        base = _shortened(config, step, teacher, old)
        changes |= {"source": base.manifest.source, "train_layers": config.layers}
    else:
        changes |= {
            "source": SPEECH_SOURCE,
            "train_layers": None,
            "pooling": "attentive",
            "attentive_width": "narrow",
            "layer_norm": "after_pooling",
        }
        base = resolve_base(
            old.settings.model_copy(update=changes), "audio", step.store, lambda: _waves(reader, teacher.modality, old)
        )
    settings = old.settings.model_copy(update=changes)
    encoder = UtteranceEncoder(families()[base.manifest.family](base.path, settings), settings, len(teacher.labels))
    own = encoder.state_dict()
    encoder.load_state_dict(
        {
            name: tensor
            for name, tensor in old.state_dict().items()
            if not name.startswith("backbone.") and name in own and own[name].shape == tensor.shape
        },
        strict=False,
    )
    if shortens:
        encoder.backbone.requires_grad_(False)
        for layer in encoder.family.layers(encoder.backbone):
            layer.requires_grad_(True)
    return _Start(base, settings, shortens, encoder)


def _shortened(
    config: DistillationConfig, step: Step, teacher: EncoderCheckpoint, old: UtteranceEncoder
) -> ArtifactHandle[BaseEncoder]:
    """A base with some layers of the teacher's fine-tuned backbone, evenly spread from the first one on."""
    layers = len(old.family.layers(old.backbone))
    count = min(config.layers, layers)
    kept = [layers * number // count for number in range(count)]
    source = f"distilled:{teacher.encoder.identity.source}"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "base"
        old.family.write_shortened(old.backbone, kept, config.pooled, folder)
        manifest = publish(step.store, BaseEncoder(family=old.family.name, source=source), folder)
    return open_artifact(step.store, BaseEncoder, manifest.digest)


def _waves(reader: UtteranceReader, modality: str, teacher: UtteranceEncoder) -> Iterator[np.ndarray]:
    """The samples of train as the encoder gets them."""
    kind = kind_of(teacher.family.kind)
    for utterance in reader.stream("train", (modality,)):
        cell = cell_of(utterance, modality)
        try:
            wave = None if cell is None else kind.encoder_input(cell, teacher.settings)
        except UnreadableError:
            continue
        if wave is not None:
            yield wave


def _rows(vectors: ArtifactHandle[EmbeddingSet]) -> dict[tuple[str, str, int], int]:
    """The row of each utterance, by split, dialogue and turn."""
    table = read_parquet(vectors.file(UTTERANCES_FILE), ["split", "dialogue_id", "turn"])
    keys = zip(*(table[name].to_pylist() for name in ("split", "dialogue_id", "turn")), strict=True)
    return {(split, dialogue, int(turn)): row for row, (split, dialogue, turn) in enumerate(keys)}


def _examples(
    reader: UtteranceReader,
    split: Split,
    modality: str,
    start: _Start,
    matrix: np.ndarray,
    rows: dict[tuple[str, str, int], int],
    folder: Path,
    step: Step,
) -> Examples:
    """The features of a split's utterances with the teacher's vectors; those without a vector are left out.

    Raises:
        DataError: there is none.
    """
    family, kind = start.encoder.family, kind_of(start.encoder.family.kind)
    classes = {label: index for index, label in enumerate(reader.reference.labels)}
    previous = PreviousTurns(reader, start.settings.context_turns, (split,))

    def prepare(utterance: Utterance) -> tuple[Features, int, np.ndarray] | None:
        cell = cell_of(utterance, modality)
        vector = np.asarray(matrix[rows[split, utterance.dialogue_id, utterance.turn]])
        if cell is None or np.isnan(vector).any():
            return None
        value = kind.encoder_input(cell, start.settings, previous.of(split, utterance))
        if value is None:
            return None
        label = UNLABELLED if utterance.label is None else classes[utterance.label]
        return family.prepare(value), label, vector

    spool, vectors = FeatureSpool(folder), []
    total = reader.reference.rows[split]
    for count, example in enumerate(prepared(prepare, reader.stream(split, (modality,))), 1):
        if example is not None:
            spool.append(example[0], example[1])
            vectors.append(example[2])
        step.progress(f"reading {split} utterances", count, total)
    spool.close()
    if not vectors:
        raise DataError(f"no utterance of {split} has usable {modality}: the student needs some in train and in dev.")
    return Examples(FeatureSpool.open(folder), torch.from_numpy(np.stack(vectors)))
