"""Fits a mixture's gate and the calibration of its experts on dev.

A gate that is trained together with the experts trusts the expert that fits train best. On dev, no expert has seen the labels. The
fit has three numbers for each expert and shrinks them to the plain mean of the experts, as strongly as a cross-validation over dev's
dialogues says.

The mixture's likelihood alone hardly determines the weights: the experts' scales and the weights can replace each other, and a flat
prediction has little effect whatever its weight. A small second term makes the weights say which expert is right.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from mistere.model.embeddings import EmbeddedDialogues
from mistere.model.mixture.mixture import FittedGate, MixtureOfExperts, confidence
from mistere.model.mixture.prediction import predict

_PENALTIES: Final = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Weights of the penalty on the gate's numbers that the cross-validation chooses from."""
_CALIBRATION_PENALTY: Final = 0.1
"""The penalty on the experts' temperatures, relative to that on the gate: dev says more about them."""
_TRUST: Final = 0.1
"""Weight of the loss on which expert is right. From 0.1 to 1 the order of the weights is the same; more makes them less even."""
_FOLDS: Final = 5
_TINY: Final = 1e-9


@dataclass(frozen=True)
class _Answers:
    """The experts' answers on dev: log probabilities ``[N, E, C]``, presence ``[N, E]``, labels and dialogues ``[N]``."""

    log_p: Tensor
    present: Tensor
    labels: Tensor
    dialogues: np.ndarray

    def only(self, rows: np.ndarray) -> _Answers:
        """The rows of a mask."""
        chosen = torch.from_numpy(rows)
        return _Answers(self.log_p[chosen], self.present[chosen], self.labels[chosen], self.dialogues[rows])


def fit_gate(model: MixtureOfExperts, data: EmbeddedDialogues, seed: int) -> float:
    """Calibrate the experts and set the gate's numbers, in place.

    Args:
        model: a mixture with a :class:`FittedGate`, in evaluation mode.
        data: embeddings; only dev is read.
        seed: of the folds.

    Returns:
        The chosen penalty: the larger, the nearer to the plain mean.
    """
    answers = _answers(model, data)
    penalty = _penalty(answers, seed)
    numbers = _fit(answers, penalty)
    scale, bias, slope = _parts(torch.from_numpy(numbers), len(model.experts))
    for index, expert in enumerate([*model.unimodal.values(), model.cross_modal]):
        output = expert.output
        assert isinstance(output, torch.nn.Linear)
        for parameter in output.parameters():
            parameter.data *= float(scale[index])
    gate = model.gate
    assert isinstance(gate, FittedGate)
    gate.bias.copy_(bias)
    gate.slope.copy_(slope)
    return penalty


def _answers(model: MixtureOfExperts, data: EmbeddedDialogues) -> _Answers:
    dialogues = data.split("dev")
    predicted = predict(model, [data.read(dialogue) for dialogue in dialogues], 1.0)
    probabilities = np.concatenate([one.expert_probabilities for one in predicted]).astype(np.float64)
    return _Answers(
        torch.from_numpy(np.log(np.maximum(probabilities, _TINY))),
        torch.from_numpy(np.concatenate([one.expert_weights for one in predicted]) > 0),
        torch.from_numpy(np.concatenate([dialogue.labels for dialogue in dialogues])),
        np.concatenate([np.full(len(dialogue), index) for index, dialogue in enumerate(dialogues)]),
    )


def _penalty(answers: _Answers, seed: int) -> float:
    """The penalty with the lowest loss in a cross-validation over dialogues."""
    names = sorted(set(answers.dialogues.tolist()))
    if len(names) < 2:
        return _PENALTIES[-1]
    random.Random(seed).shuffle(names)  # noqa: S311  (the seed must reproduce the fit)
    folds = [names[start :: min(_FOLDS, len(names))] for start in range(min(_FOLDS, len(names)))]
    losses = [_held_out_loss(answers, folds, penalty) for penalty in _PENALTIES]
    return _PENALTIES[int(np.argmin(losses))]


def _held_out_loss(answers: _Answers, folds: Sequence[Sequence[int]], penalty: float) -> float:
    total = 0.0
    for fold in folds:
        held = np.isin(answers.dialogues, fold)
        numbers = torch.from_numpy(_fit(answers.only(~held), penalty))
        total += float(_loss(numbers, answers.only(held))) * int(held.sum())
    return total


def _fit(answers: _Answers, penalty: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Logarithms of the experts' scales, the gate's constants and its factors ``[3 E]``, with the penalised minimum."""
    from scipy.optimize import minimize

    experts = answers.present.shape[1]
    weights = torch.cat([torch.full((experts,), _CALIBRATION_PENALTY), torch.ones(2 * experts)]).double() * penalty

    def objective(values: np.ndarray) -> tuple[float, np.ndarray]:
        numbers = torch.tensor(values, requires_grad=True)
        loss = _loss(numbers, answers) + (weights * numbers**2).sum()
        (gradient,) = torch.autograd.grad(loss, numbers)
        return loss.item(), gradient.numpy()

    fitted = minimize(objective, np.zeros(3 * experts), jac=True, method="L-BFGS-B").x
    return np.asarray(fitted, dtype=np.float64)


def _loss(numbers: Tensor, answers: _Answers) -> Tensor:
    """Negative log-likelihood of the mixture, plus that of drawing a right expert by the weights where experts differ."""
    known = answers.present.any(1)
    present, labels = answers.present[known], answers.labels[known]
    scale, bias, slope = _parts(numbers, present.shape[1])
    logits = answers.log_p[known] * scale[:, None]
    weights = (bias + slope * confidence(logits)).masked_fill(~present, float("-inf")).softmax(-1)
    mixed = torch.nn.functional.cross_entropy((weights[..., None] * logits).sum(1), labels)
    right = (logits.argmax(-1) == labels[:, None]) & present
    differing = right.any(1) & (present & ~right).any(1)
    drawn_right = (weights[differing] * right[differing]).sum(1)
    return mixed - _TRUST * (drawn_right + _TINY).log().sum() / max(1, len(labels))


def _parts(numbers: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
    return numbers[:experts].exp(), numbers[experts : 2 * experts], numbers[2 * experts :]
