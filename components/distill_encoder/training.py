"""Training a student's encoder: squared distance to the teacher's vectors, divergence from its probabilities, and the labels."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mistere.common.errors import MistereError
from mistere.common.progress import Progress
from mistere.config.distillation import DistillationConfig
from mistere.data.utterances import FeatureSpool, batches_by_length
from mistere.metrics.classification import confusion, weighted_f1
from mistere.model.embeddings import UNLABELLED
from mistere.model.encoders.utterance_encoder import UtteranceEncoder
from mistere.model.losses import distillation_loss

_WARMUP = 0.1
"""Share of the steps over which the learning rate rises."""
_BUCKET = 8
"""Batches of similar length are cut from so many batches of random utterances, which keeps their order random."""


@dataclass(frozen=True)
class Examples:
    """Utterances of a split with the teacher's vectors.

    Attributes:
        features: of each utterance, with its class; :data:`~mistere.model.embeddings.UNLABELLED` without a label.
        vectors: float32 ``[N, d]``.
    """

    features: FeatureSpool
    vectors: Tensor

    def __len__(self) -> int:
        return len(self.features)


class _Targets:
    """The teacher's side of the loss.

    Args:
        head: weight ``[C, d]`` and bias ``[C]`` of the teacher's head.
        train: gives the scale of each column.
        config: weights and temperature.
    """

    def __init__(self, head: Sequence[Tensor], train: Examples, config: DistillationConfig) -> None:
        self._weight, self._bias = head
        self._std = train.vectors.std(0).clamp(min=1e-4)
        self._config = config

    def loss(self, vectors: Tensor, logits: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch: of the student's vectors ``[B, d]`` and logits ``[B, C]``, for the teacher's vectors and the classes."""
        config = self._config
        distance = ((vectors - teacher) / self._std).square().mean()
        answer = nn.functional.linear(teacher.relu(), self._weight, self._bias)
        total = config.vector_weight * distance
        total = total + config.teacher_share * distillation_loss(logits, answer, config.temperature)
        if (labels != UNLABELLED).any() and config.teacher_share < 1:
            on_labels = nn.functional.cross_entropy(logits, labels, ignore_index=UNLABELLED)
            total = total + (1 - config.teacher_share) * on_labels
        return total


def train(
    config: DistillationConfig,
    encoder: UtteranceEncoder,
    head: Sequence[Tensor],
    training: Examples,
    dev: Examples,
    progress: Progress,
    *,
    keeps_layers: bool,
) -> list[dict[str, float]]:
    """Train; the encoder has the weights of the epoch with the lowest loss on dev afterwards.

    Args:
        config: the ``distillation`` section.
        encoder: the student; its parameters that require gradients are trained.
        head: the teacher's.
        training: utterances to learn from.
        dev: utterances that select the epoch.
        progress: reporter.
        keeps_layers: whether the backbone consists of the teacher's layers, which learn slowly.

    Returns:
        The curve.

    Raises:
        MistereError: the training diverged.
    """
    targets = _Targets(head, training, config)
    learning = {name: parameter for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    epochs = config.epochs if keeps_layers else config.new_epochs
    steps = epochs * math.ceil(len(training) / config.batch_size)
    optimizer = torch.optim.AdamW(_groups(learning, config, keeps_layers), weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _factor(step / steps))
    history: list[dict[str, float]] = []
    best: dict[str, Tensor] = {}
    for epoch in range(1, epochs + 1):
        torch.manual_seed(config.seed * 1_000_003 + epoch)
        draw = random.Random(config.seed * 1_000_003 + epoch)  # noqa: S311  (the seed must reproduce the training)
        encoder.train()
        total = 0.0
        for batch in _batches(training.features.lengths, config.batch_size, draw):
            pairs = [training.features[index] for index in batch]
            features = [encoder.family.altered(one, draw) for one, _ in pairs]
            vectors = encoder.embed(encoder.family.collate(features))
            labels = torch.tensor([label for _, label in pairs])
            loss = targets.loss(vectors, encoder.head(vectors), training.vectors[batch], labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(learning.values(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch)
        entry = {"epoch": float(epoch), "loss": round(total / len(training), 6), **_evaluate(encoder, targets, dev)}
        if not math.isfinite(entry["loss"] + entry["dev_loss"]):
            raise MistereError(
                f"the training of the student diverged in epoch {epoch}: lower distillation.learning_rate and "
                "distillation.new_learning_rate."
            )
        history.append(entry)
        if entry["dev_loss"] == min(one["dev_loss"] for one in history):
            best = {name: parameter.detach().clone() for name, parameter in learning.items()}
        progress(f"epoch {epoch}/{epochs}, dev weighted F1 {entry['dev_weighted_f1']:.3f}", epoch, epochs)
    with torch.no_grad():
        for name, parameter in learning.items():
            parameter.copy_(best[name])
    return history


def _groups(
    learning: dict[str, nn.Parameter], config: DistillationConfig, keeps_layers: bool
) -> list[dict[str, object]]:
    """Parameters of layers that were the teacher's, and the others, with their learning rates."""
    kept = [parameter for name, parameter in learning.items() if keeps_layers and name.startswith("backbone.")]
    new = [parameter for name, parameter in learning.items() if not (keeps_layers and name.startswith("backbone."))]
    rates = ((kept, config.learning_rate), (new, config.new_learning_rate))
    return [{"params": parameters, "lr": rate} for parameters, rate in rates if parameters]


def _factor(passed: float) -> float:
    """Factor of the learning rates: linear warm-up, then a cosine to 0."""
    if passed < _WARMUP:
        return passed / _WARMUP + 1e-3
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (passed - _WARMUP) / (1 - _WARMUP))))


def _batches(lengths: Sequence[int], size: int, draw: random.Random) -> list[list[int]]:
    """Indices in batches of similar length, in random order."""
    order = list(range(len(lengths)))
    draw.shuffle(order)
    batches = []
    for start in range(0, len(order), size * _BUCKET):
        bucket = order[start : start + size * _BUCKET]
        batches += [
            [bucket[index] for index in batch]
            for batch in batches_by_length([lengths[index] for index in bucket], size)
        ]
    draw.shuffle(batches)
    return batches


@torch.inference_mode()
def _evaluate(encoder: UtteranceEncoder, targets: _Targets, dev: Examples) -> dict[str, float]:
    """Loss and weighted F1 of the head on dev."""
    encoder.eval()
    total, predicted, true = 0.0, [], []
    for batch in batches_by_length(dev.features.lengths, 64):
        pairs = [dev.features[index] for index in batch]
        vectors = encoder.embed(encoder.family.collate([features for features, _ in pairs]))
        logits, labels = encoder.head(vectors), torch.tensor([label for _, label in pairs])
        total += targets.loss(vectors, logits, dev.vectors[batch], labels).item() * len(batch)
        predicted.append(logits.argmax(1).numpy())
        true.append(labels.numpy())
    labels_, answers = np.concatenate(true), np.concatenate(predicted)
    known = labels_ != UNLABELLED
    score = float(weighted_f1(confusion(labels_[known], answers[known], logits.shape[1])))
    return {"dev_loss": round(total / len(dev), 6), "dev_weighted_f1": round(score, 6)}
