"""Training a student's encoder: squared distance to the teacher's vectors, divergence from its probabilities, and the labels."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mistere.artifacts.checkpoint_writing import CheckpointSchedule
from mistere.common.errors import MistereError
from mistere.config.distillation import DistillationConfig
from mistere.data.utterances import FeatureSpool, batches_by_length
from mistere.engine.stage import Step
from mistere.metrics.classification import confusion, weighted_f1
from mistere.model.embeddings import UNLABELLED
from mistere.model.encoders.utterance_encoder import UtteranceEncoder
from mistere.model.losses import distillation_loss
from mistere.model.training_checkpoint import CHECKPOINT, TrainingState, read_checkpoint, write_checkpoint

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
        device: of the training.
    """

    def __init__(
        self, head: Sequence[Tensor], train: Examples, config: DistillationConfig, device: torch.device
    ) -> None:
        self._weight, self._bias = (one.to(device) for one in head)
        self._std = train.vectors.std(0).clamp(min=1e-4).to(device)
        self._config = config

    def loss(self, vectors: Tensor, logits: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch: of the student's vectors ``[B, d]`` and logits ``[B, C]``, for the teacher's vectors and the classes."""
        config = self._config
        distance = ((vectors - teacher) / self._std).square().mean()
        answer = nn.functional.linear(teacher.relu(), self._weight, self._bias)
        total = config.vector_weight * distance
        total = total + config.teacher_share * distillation_loss(logits, answer, config.temperature)
        if config.teacher_share < 1 and (labels != UNLABELLED).any():
            on_labels = nn.functional.cross_entropy(logits, labels, ignore_index=UNLABELLED)
            total = total + (1 - config.teacher_share) * on_labels
        return total


def train(
    config: DistillationConfig,
    encoder: UtteranceEncoder,
    head: Sequence[Tensor],
    training: Examples,
    dev: Examples,
    step: Step,
    device: torch.device,
    *,
    keeps_layers: bool,
) -> list[dict[str, float]]:
    """Train, from the checkpoint if there is one; the encoder has the weights of the epoch with the lowest loss on dev afterwards.

    Args:
        config: the ``distillation`` section.
        encoder: the student; its parameters that require gradients are trained.
        head: the teacher's.
        training: utterances to learn from.
        dev: utterances that select the epoch.
        step: gets the progress, and stores checkpoints after epochs, as often as they cost at most 2 % of the time.
        device: where to train; the encoder is on the CPU before and afterwards.
        keeps_layers: whether the backbone consists of the teacher's layers, which learn slowly.

    Returns:
        The curve.

    Raises:
        MistereError: the training diverged, or a batch does not fit into the device's memory.
    """
    encoder.to(device)
    targets = _Targets(head, training, config, device)
    student = _Student(config, encoder, targets, training, dev, device, keeps_layers=keeps_layers)
    schedule = CheckpointSchedule.bounded()
    step.checkpoints.restore()
    student.restore(step.checkpoints.directory)
    while student.epoch < student.epochs:
        try:
            student.train_epoch()
        except torch.OutOfMemoryError as error:
            raise MistereError(
                "a batch of the student's training does not fit into the device's memory: lower distillation.batch_size, or "
                "train on the CPU (distillation.device=cpu)."
            ) from error
        if schedule.is_due():
            began = time.monotonic()
            schedule.began()
            size = student.save(step.checkpoints.directory)
            step.checkpoints.save(CHECKPOINT)
            schedule.measured(time.monotonic() - began, size)
        score = student.history[-1]["dev_weighted_f1"]
        step.progress(
            f"epoch {student.epoch}/{student.epochs}, dev weighted F1 {score:.3f}", student.epoch, student.epochs
        )
    student.take_best()
    encoder.to("cpu")
    return student.history


class _Student:
    """The state of a training: encoder, optimiser, best weights so far.

    The order and the random draws of an epoch depend only on the seed and the epoch, so that a training which was killed ends
    with the same result from its checkpoint.

    Args:
        config: the ``distillation`` section.
        encoder: the student.
        targets: the teacher's side of the loss.
        training: utterances to learn from.
        dev: utterances that select the epoch.
        device: of the encoder.
        keeps_layers: whether the backbone consists of the teacher's layers.
    """

    def __init__(
        self,
        config: DistillationConfig,
        encoder: UtteranceEncoder,
        targets: _Targets,
        training: Examples,
        dev: Examples,
        device: torch.device,
        *,
        keeps_layers: bool,
    ) -> None:
        self._device = device
        self._config, self._encoder, self._targets, self._training, self._dev = config, encoder, targets, training, dev
        self._learning = {name: parameter for name, parameter in encoder.named_parameters() if parameter.requires_grad}
        self.epochs = config.epochs if keeps_layers else config.new_epochs
        self._batches = math.ceil(len(training) / config.batch_size)
        self._optimizer = torch.optim.AdamW(
            _groups(self._learning, config, keeps_layers), weight_decay=config.weight_decay
        )
        self._best: dict[str, Tensor] = {}
        self.history: list[dict[str, float]] = []

    @property
    def epoch(self) -> int:
        """Epochs so far."""
        return len(self.history)

    def train_epoch(self) -> None:
        """Train on one pass over train, then evaluate on dev.

        Raises:
            MistereError: the training diverged.
        """
        config, encoder, epoch = self._config, self._encoder, self.epoch + 1
        torch.manual_seed(config.seed * 1_000_003 + epoch)
        draw = random.Random(config.seed * 1_000_003 + epoch)  # noqa: S311  (the seed must reproduce the training)
        encoder.train()
        total = 0.0
        batches = _batches(self._training.features.lengths, config.batch_size, draw)
        for done, batch in enumerate(batches, self.epoch * self._batches):
            for group in self._optimizer.param_groups:
                group["lr"] = group["peak"] * _factor(done / (self.epochs * self._batches))
            pairs = [self._training.features[index] for index in batch]
            features = [encoder.family.altered(one, draw) for one, _ in pairs]
            vectors = encoder.embed(_moved(encoder.family.collate(features), self._device))
            labels = torch.tensor([label for _, label in pairs]).to(self._device)
            teacher = self._training.vectors[batch].to(self._device)
            loss = self._targets.loss(vectors, encoder.head(vectors), teacher, labels)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self._learning.values(), 1.0)
            self._optimizer.step()
            total += loss.item() * len(batch)
        mean = round(total / len(self._training), 6)
        entry = {"epoch": float(epoch), "loss": mean, **_evaluate(encoder, self._targets, self._dev, self._device)}
        if not math.isfinite(entry["loss"] + entry["dev_loss"]):
            raise MistereError(
                f"the training of the student diverged in epoch {epoch}: lower distillation.learning_rate and "
                "distillation.new_learning_rate."
            )
        self.history.append(entry)
        if self._is_best():
            self._best = self._weights()

    @torch.no_grad()
    def take_best(self) -> None:
        """Give the encoder the weights of the best epoch."""
        for name, parameter in self._learning.items():
            parameter.copy_(self._best[name])

    def save(self, directory: Path) -> int:
        """Write a checkpoint to a temporary file and rename it over the old one; returns its size in bytes."""
        best = {} if self._is_best() else self._best  # else the same as the weights
        optimizer = self._optimizer.state_dict()["state"]
        state = TrainingState(self._weights(), best, optimizer=optimizer, facts={"history": self.history})
        return write_checkpoint(state, directory)

    @torch.no_grad()
    def restore(self, directory: Path) -> None:
        """Load a checkpoint if there is one.

        Raises:
            UsageError: it is of a model of another shape.
        """
        state = read_checkpoint(directory, {name: one.shape for name, one in self._learning.items()})
        if state is None:
            return
        for name, parameter in self._learning.items():
            parameter.copy_(state.model[name])
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": state.optimizer})
        self.history = state.facts["history"]
        self._best = state.best or self._weights()

    def _is_best(self) -> bool:
        """Whether the last epoch is the best one so far."""
        return self.history[-1]["dev_loss"] == min(one["dev_loss"] for one in self.history)

    def _weights(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self._learning.items()}


def _groups(
    learning: dict[str, nn.Parameter], config: DistillationConfig, keeps_layers: bool
) -> list[dict[str, object]]:
    """Parameters of layers that were the teacher's, and the others, with their peak learning rates."""
    kept = [parameter for name, parameter in learning.items() if keeps_layers and name.startswith("backbone.")]
    new = [parameter for name, parameter in learning.items() if not (keeps_layers and name.startswith("backbone."))]
    rates = ((kept, config.learning_rate), (new, config.new_learning_rate))
    return [{"params": parameters, "peak": rate} for parameters, rate in rates if parameters]


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


def _moved(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in batch.items()}


@torch.inference_mode()
def _evaluate(encoder: UtteranceEncoder, targets: _Targets, dev: Examples, device: torch.device) -> dict[str, float]:
    """Loss and weighted F1 of the head on dev."""
    encoder.eval()
    total, predicted, true = 0.0, [], []
    for batch in batches_by_length(dev.features.lengths, 64):
        pairs = [dev.features[index] for index in batch]
        vectors = encoder.embed(_moved(encoder.family.collate([features for features, _ in pairs]), device))
        logits, labels = encoder.head(vectors), torch.tensor([label for _, label in pairs])
        loss = targets.loss(vectors, logits, dev.vectors[batch].to(device), labels.to(device))
        total += loss.item() * len(batch)
        predicted.append(logits.argmax(1).cpu().numpy())
        true.append(labels.numpy())
    labels_, answers = np.concatenate(true), np.concatenate(predicted)
    known = labels_ != UNLABELLED
    score = float(weighted_f1(confusion(labels_[known], answers[known], logits.shape[1])))
    return {"dev_loss": round(total / len(dev), 6), "dev_weighted_f1": round(score, 6)}
