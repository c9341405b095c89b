"""Training the mixture: batches of whole dialogues by length, best epoch by dev weighted F1, exact resume.

The order and the random draws of an epoch depend only on the seed and the epoch. A checkpoint after an epoch holds weights,
optimiser state and the best weights so far as safetensors. A run that was killed resumes from it and ends with the same result.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mistere.artifacts.checkpoint_writing import CheckpointSchedule
from mistere.artifacts.checkpoints import Checkpoints
from mistere.common.errors import DataError, MistereError
from mistere.common.progress import Progress
from mistere.config.mixture import MixtureConfig, known
from mistere.metrics.classification import confusion, weighted_f1
from mistere.metrics.expert_gate import gate_statistics
from mistere.model.embeddings import EmbeddedDialogue, EmbeddedDialogues
from mistere.model.mixture.automatic_settings import TrainSize, parameter_groups, resolve, uses_bf16
from mistere.model.mixture.fitting.batches import dialogue_batches, drop_modalities
from mistere.model.mixture.fitting.moving_average import MovingAverage
from mistere.model.mixture.fitting.teacher import MixtureTeacher
from mistere.model.mixture.gate_fit import fit_gate
from mistere.model.mixture.input_scaling import InputScaling
from mistere.model.mixture.mixture import DialogueBatch, MixtureOfExperts
from mistere.model.mixture.prediction import make_batch, predict_split
from mistere.model.torch_threads import TRAINING_WORK, threads, threads_for
from mistere.model.training_checkpoint import CHECKPOINT, TrainingState, read_checkpoint, write_checkpoint


@dataclass(frozen=True)
class TrainedMixture:
    """Result of training: the model of the best epoch in evaluation mode, its calibration and the learning curve."""

    model: MixtureOfExperts
    temperature: float
    dev_weighted_f1: float
    epoch: int
    history: list[dict[str, float]]


def train_mixture(
    config: MixtureConfig,
    data: EmbeddedDialogues,
    *,
    progress: Progress,
    checkpoints: Checkpoints | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
    teacher: MixtureTeacher | None = None,
) -> TrainedMixture:
    """Train on the train split; select the epoch and the temperature on dev.

    Args:
        config: the mixture's section.
        data: embeddings of all splits; test is not read.
        progress: reporter.
        checkpoints: stores checkpoints after epochs, as often as they cost at most 2 % of the time; None stores none.
        on_epoch: called after each epoch with its number and its entry of the history; an exception ends the training.
        teacher: a model whose answers are learnt besides the labels; None for the labels alone.

    Raises:
        DataError: train or dev has no dialogue, or no turn with a label.
        UsageError: the checkpoint is of a model of another shape.
        MistereError: the training diverged.
    """
    for split in ("train", "dev"):
        if not data.split(split):  # type: ignore[arg-type]
            raise DataError(
                f"the {split} split has no dialogue: the mixture needs train to learn from and dev to select the "
                "epoch; import the dataset with all splits."
            )
        if not any(dialogue.labelled.any() for dialogue in data.split(split)):  # type: ignore[arg-type]
            raise DataError(f"no turn of the {split} split has a label: the mixture needs labels in train and dev.")
    torch.manual_seed(config.seed)
    fitting = MixtureTraining(config, data, teacher)
    with threads(threads_for(fitting.step_work(), TRAINING_WORK)):
        return _train(fitting, progress, checkpoints, on_epoch)


def _train(
    fitting: MixtureTraining,
    progress: Progress,
    checkpoints: Checkpoints | None,
    on_epoch: Callable[[int, dict[str, float]], None] | None,
) -> TrainedMixture:
    epochs, patience = known(fitting.config.epochs), known(fitting.config.patience)
    directory, schedule = checkpoints.directory if checkpoints else None, CheckpointSchedule.bounded()
    if checkpoints is not None:
        checkpoints.restore()
        fitting.restore(checkpoints.directory)
    while fitting.epoch < epochs and fitting.epoch - fitting.best_epoch < patience:
        fitting.train_epoch()
        latest = fitting.history[-1]
        progress(
            f"epoch {fitting.epoch}/{epochs}, dev weighted F1 {latest['dev_weighted_f1']:.3f}",
            fitting.epoch,
            epochs,
        )
        if checkpoints is not None and directory is not None and schedule.is_due():
            began = time.monotonic()
            schedule.began()
            size = fitting.save(directory)
            checkpoints.save(CHECKPOINT)
            schedule.measured(time.monotonic() - began, size)
        if on_epoch is not None:
            on_epoch(fitting.epoch, latest)
    return fitting.result()


class MixtureTraining:
    """The state of one training run: model, optimiser, best weights so far."""

    def __init__(self, config: MixtureConfig, data: EmbeddedDialogues, teacher: MixtureTeacher | None = None) -> None:
        config = resolve(config, TrainSize.of(data))
        self.teacher = teacher
        self.config, self.data, self.rate = config, data, known(config.learning_rate)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = MixtureOfExperts(config, data.dimensions, len(data.labels))
        if teacher is not None:
            teacher.start(self.model)
        for name, scaling in self.model.scaling.items():
            assert isinstance(scaling, InputScaling)
            scaling.fit(data.read(dialogue)[name] for dialogue in data.split("train"))
        self.model.to(self.device)
        self.average = MovingAverage(self.model, config.average_epochs) if config.average_epochs else None
        self.bf16 = uses_bf16(config, self.device, sum(one.numel() for one in self.model.parameters()))
        weights = class_weights(config, data)
        self.class_weights = None if weights is None else weights.to(self.device)
        # Fused: one pass over the weights instead of a dozen. With 90 M weights and short dialogues that saves half of a step
        # (`mistere bench training_speed`); it can go once torch fuses by default on every device.
        self.optimizer = torch.optim.Adam(
            parameter_groups(config, self.model), lr=self.rate, weight_decay=known(config.weight_decay), fused=True
        )
        self.epoch = self.best_epoch = 0
        self.best_score = -1.0
        self.best: dict[str, Tensor] = {}
        self.history: list[dict[str, float]] = []

    def train_epoch(self) -> None:
        """Train on one pass over train, then evaluate on dev."""
        torch.manual_seed(self.config.seed * 1_000_003 + self.epoch)
        draw = random.Random(self.config.seed * 1_000_003 + self.epoch)  # noqa: S311  (the seed must reproduce the training)
        self.model.train()
        batches = dialogue_batches(
            self.data.split("train"), self.config.batch_dialogues, draw, by_length=self.config.batches == "length"
        )
        total = torch.zeros((), device=self.device)
        for index, dialogues in enumerate(batches):
            for group in self.optimizer.param_groups:
                factor = rate_factor(self.config, self.epoch + (index + 1) / len(batches))
                group["lr"] = self.rate * group["factor"] * factor
            total += self.train_step(dialogues)
            if self.average is not None:
                self.average.update(self.model, len(batches))
        mean = float(total) / max(1, len(batches))
        if not np.isfinite(mean):
            raise self._diverged(f"the loss is {mean}")
        self.epoch += 1
        score, gate = evaluate_on_dev(self._evaluated().eval(), self.data)
        if score is None:
            raise self._diverged("the probabilities are not finite")
        entry = {"epoch": self.epoch, "loss": round(mean, 6), "dev_weighted_f1": round(score, 6)}
        self.history.append(entry | {name: round(value, 6) for name, value in gate.items()})
        if score > self.best_score:
            self.best_score, self.best_epoch = score, self.epoch
            self.best = self._evaluated_weights()

    def step_work(self) -> float:
        """Floating-point operations of a step on a batch of average size: three products with each weight for each row."""
        train = self.data.split("train")
        rows = sum(map(len, train)) / len(train) * min(len(train), self.config.batch_dialogues)
        return 6 * rows * sum(weight.numel() for weight in self.model.parameters())

    def _evaluated(self) -> MixtureOfExperts:
        """The model whose predictions count: the average of the weights, or the weights themselves."""
        return self.model if self.average is None else self.average.model

    def _evaluated_weights(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self._evaluated().state_dict().items()}

    def train_step(self, dialogues: Sequence[EmbeddedDialogue]) -> Tensor:
        """Run one optimiser step on these dialogues; returns their loss, a scalar on the device.

        This is the hot path: at published sizes over nine tenths of it are matrix products on real rows.
        """
        batch = self._batch(dialogues)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            output = self.model(batch)
        loss = self.model.loss(batch, output, self.class_weights)
        if self.teacher is not None:
            loss = self.teacher.loss(loss, dialogues, output)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip)
        self.optimizer.step()
        return loss.detach()

    def _batch(self, dialogues: Sequence[EmbeddedDialogue]) -> DialogueBatch:
        batch = make_batch(
            [self.data.read(dialogue) for dialogue in dialogues],
            self.model.dimensions,
            [dialogue.labels for dialogue in dialogues],
            self.device,
        )
        return drop_modalities(batch, self.config.modality_dropout)

    def _diverged(self, how: str) -> MistereError:
        return MistereError(
            f"the mixture's training diverged in epoch {max(self.epoch, 1)} ({how}): lower mixture.learning_rate, now "
            f"{self.rate:g}, or check the embeddings for infinite values."
        )

    def result(self) -> TrainedMixture:
        """The model of the best epoch, calibrated."""
        self.model.load_state_dict(self.best)
        self.model.to("cpu").eval()
        score = self.best_score
        if self.config.gate == "fitted":
            fit_gate(self.model, self.data, self.config.seed)
            score = evaluate_on_dev(self.model, self.data)[0] or 0.0
        return TrainedMixture(self.model, calibrate(self.model, self.data), score, self.best_epoch, self.history)

    def save(self, directory: Path) -> int:
        """Write a checkpoint to a temporary file and rename it over the old one; returns its size in bytes."""
        facts = {
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "best_score": self.best_score,
            "history": self.history,
            "updates": self.average.updates if self.average else 0,
        }
        average = self.average.model.state_dict() if self.average else {}
        best = {} if self.best_epoch == self.epoch else self.best  # else the same as the weights that are evaluated
        state = TrainingState(self.model.state_dict(), best, average, self.optimizer.state_dict()["state"], facts)
        return write_checkpoint(state, directory)

    def restore(self, directory: Path) -> None:
        """Load a checkpoint if there is one.

        Raises:
            UsageError: it is of a model of another shape.
        """
        state = read_checkpoint(directory, {name: tensor.shape for name, tensor in self.model.state_dict().items()})
        if state is None:
            return
        self.model.load_state_dict(state.model)
        if self.average is not None:
            self.average.model.load_state_dict(state.average)
            self.average.updates = state.facts["updates"]
        self.best = state.best or self._evaluated_weights()
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state.optimizer})
        self.epoch, self.best_epoch = state.facts["epoch"], state.facts["best_epoch"]
        self.best_score, self.history = state.facts["best_score"], state.facts["history"]


def evaluate_on_dev(model: MixtureOfExperts, data: EmbeddedDialogues) -> tuple[float | None, dict[str, float]]:
    """Weighted F1 on dev, None if a probability is not finite, and the gate's statistics."""
    dev = predict_split(model, data, "dev")
    probabilities = dev.probabilities
    statistics = gate_statistics(dev.expert_weights, model.experts)
    if not np.isfinite(probabilities).all():
        return None, statistics.metrics()
    score = float(weighted_f1(confusion(dev.labels, probabilities.argmax(1), len(data.labels))))
    return score, statistics.metrics()


def rate_factor(config: MixtureConfig, passed: float) -> float:
    """Factor of the learning rate after ``passed`` epochs: warm-up, then the schedule to the last epoch."""
    if passed < config.warmup_epochs:
        return passed / config.warmup_epochs
    if config.schedule == "constant":
        return 1.0
    rest = min(1.0, (passed - config.warmup_epochs) / max(1e-9, known(config.epochs) - config.warmup_epochs))
    return 1 - rest if config.schedule == "linear" else (1 + math.cos(math.pi * rest)) / 2


def class_weights(config: MixtureConfig, data: EmbeddedDialogues) -> Tensor | None:
    """Class weights ``[C]`` against imbalance, with mean 1 over train utterances; None if disabled.

    A class without train utterances has weight 0.
    """
    if config.class_weights == "none":
        return None
    labels = np.concatenate([dialogue.labels[dialogue.labelled] for dialogue in data.split("train")])
    counts = np.bincount(labels, minlength=len(data.labels)).astype(np.float64)
    inverse = np.divide(1.0, counts, out=np.zeros_like(counts), where=counts > 0)
    weights = inverse if config.class_weights == "balanced" else np.sqrt(inverse)
    return torch.tensor(weights * counts.sum() / (weights * counts).sum(), dtype=torch.float32)


def calibrate(model: MixtureOfExperts, data: EmbeddedDialogues) -> float:
    """Temperature that minimises the dev set's negative log-likelihood (Guo et al., arXiv 1706.04599)."""
    from scipy.optimize import minimize_scalar

    dev = predict_split(model, data, "dev")
    log_p = np.log(np.clip(dev.probabilities.astype(np.float64), 1e-12, 1))

    def negative_log_likelihood(log_temperature: float) -> float:
        scaled = log_p / np.exp(log_temperature)
        scaled -= scaled.max(1, keepdims=True)
        return float((np.log(np.exp(scaled).sum(1)) - scaled[np.arange(len(dev.labels)), dev.labels]).mean())

    best = minimize_scalar(negative_log_likelihood, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    return float(np.exp(best.x))
