"""Fits a mixture's gate and the calibration of its experts on dev.

A gate that is trained together with the experts trusts the expert that fits train best. On dev, no expert has seen the labels. The
fit has three numbers for each expert and shrinks them to the plain mean of the experts, as strongly as a cross-validation over dev's
dialogues says.

The mixture's likelihood alone hardly determines the weights: the experts' scales and the weights can replace each other, and a flat
prediction has little effect whatever its weight. A small second term makes the weights say which expert is right. It costs likelihood
where experts are calibrated and independent, so it only decides the direction in which the weights leave the mean. They go as far as the
likelihood gains significantly on dialogues that the fit has not seen. The order of an utterance's weights hardly depends on that.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor

from mistere.model.embeddings import EmbeddedDialogues
from mistere.model.mixture.mixture import FittedGate, MixtureOfExperts, certainty
from mistere.model.mixture.prediction import predict_split

_PENALTIES: Final = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
"""Weights of the penalty on the gate's numbers that the cross-validation chooses from."""
_CALIBRATION_PENALTY: Final = 0.1
"""The penalty on the experts' temperatures, relative to that on the gate: dev says more about them."""
_TRUST: Final = 0.1
"""Weight of the loss on which expert is right. From 0.1 to 1 the order of the weights is the same; more makes them less even."""
_STRENGTHS: Final = (1.0, 0.6, 0.35, 0.2, 0.1, 0.03, 0.01)
"""Factors of the gate's numbers that the cross-validation chooses from."""
_SIGNIFICANT: Final = 2.0
"""Standard errors by which a strength must be better than a smaller one."""
_FOLDS: Final = 5
_TINY: Final = 1e-9
_Numbers = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class _Answers:
    """The answers on N turns that each have an expert: log probabilities ``[N, E, C]``, presence ``[N, E]``, labels and dialogues ``[N]``."""

    log_p: Tensor
    present: Tensor
    labels: Tensor
    dialogues: np.ndarray

    def only(self, rows: np.ndarray) -> _Answers:
        """The rows of a mask."""
        chosen = torch.from_numpy(rows)
        return _Answers(self.log_p[chosen], self.present[chosen], self.labels[chosen], self.dialogues[rows])


def fit_gate(model: MixtureOfExperts, data: EmbeddedDialogues, seed: int) -> None:
    """Calibrate the experts and set the gate's numbers, in place.

    Args:
        model: a mixture with a :class:`FittedGate`, in evaluation mode.
        data: embeddings; only dev is read.
        seed: of the folds.
    """
    numbers = _fit(_answers(model, data), seed)
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


def _answers(model: MixtureOfExperts, data: EmbeddedDialogues) -> _Answers:
    """The answers on dev's labelled turns. A turn without an expert says nothing about the experts and is left out."""
    dev = predict_split(model, data, "dev")
    present = dev.expert_weights > 0
    every = _Answers(
        torch.from_numpy(np.log(np.maximum(dev.expert_probabilities.astype(np.float64), _TINY))),
        torch.from_numpy(present),
        torch.from_numpy(dev.labels),
        np.repeat(np.arange(len(dev.predictions)), [len(one.modalities) for one in dev.predictions]),
    )
    return every.only(present.sum(1) > 0)


def _fit(answers: _Answers, seed: int) -> _Numbers:
    """Logarithms of the experts' scales, the gate's constants and its factors ``[3 E]``; zeros, the plain mean, if there are no answers."""
    if not len(answers.labels):
        return np.zeros(3 * answers.present.shape[1])
    folds = _folds(answers, seed)
    penalty = _penalty(answers, folds)
    strength = _strength(answers, folds, penalty)
    return _attenuated(answers, _direction(answers, penalty), strength, penalty)


def _folds(answers: _Answers, seed: int) -> list[list[int]]:
    """Dialogues of each fold; none if there are fewer than two dialogues."""
    names = sorted(set(answers.dialogues.tolist()))
    random.Random(seed).shuffle(names)  # noqa: S311  (the seed must reproduce the fit)
    folds = min(_FOLDS, len(names))
    return [names[start::folds] for start in range(folds)] if folds > 1 else []


def _parts_of(answers: _Answers, folds: Sequence[Sequence[int]]) -> list[tuple[_Answers, _Answers]]:
    """For each fold, the utterances outside and inside it."""
    held = [np.isin(answers.dialogues, fold) for fold in folds]
    return [(answers.only(~rows), answers.only(rows)) for rows in held]


def _penalty(answers: _Answers, folds: Sequence[Sequence[int]]) -> float:
    """The penalty with the lowest loss on dialogues that its fit has not seen."""
    if not folds:
        return _PENALTIES[-1]
    parts = _parts_of(answers, folds)
    losses = [
        sum(
            float(_loss(torch.from_numpy(_direction(seen, penalty)), unseen)) * len(unseen.labels)
            for seen, unseen in parts
        )
        for penalty in _PENALTIES
    ]
    return _PENALTIES[int(np.argmin(losses))]


def _strength(answers: _Answers, folds: Sequence[Sequence[int]], penalty: float) -> float:
    """The smallest strength that is not significantly worse than the best on dialogues that its fit has not seen.

    Significantly is by more than two standard errors of the difference, over dialogues.
    """
    if not folds:
        return _STRENGTHS[-1]
    losses = np.concatenate([_losses(*part, penalty) for part in _parts_of(answers, folds)], axis=1)
    excess = losses - losses[losses.sum(1).argmin()]
    errors = excess.std(1, ddof=1) * np.sqrt(excess.shape[1])
    return next(
        strength
        for strength, more, error in reversed(list(zip(_STRENGTHS, excess.sum(1), errors, strict=True)))
        if more <= _SIGNIFICANT * error
    )


def _losses(seen: _Answers, unseen: _Answers, penalty: float) -> np.ndarray:
    """Negative log-likelihood ``[S, D]`` of the mixture for each strength, summed over each dialogue of ``unseen``."""
    direction = _direction(seen, penalty)
    _, owners = np.unique(unseen.dialogues, return_inverse=True)
    rows = []
    for strength in _STRENGTHS:
        logits, weights = _mixed(torch.from_numpy(_attenuated(seen, direction, strength, penalty)), unseen)
        rows.append(np.bincount(owners, _cross_entropy(logits, weights, unseen.labels, reduction="none").numpy()))
    return np.stack(rows)


def _direction(answers: _Answers, penalty: float) -> _Numbers:
    """The numbers with the penalised minimum of both terms."""
    experts = answers.present.shape[1]
    weights = torch.cat([torch.full((experts,), _CALIBRATION_PENALTY), torch.ones(2 * experts)]).double() * penalty
    return _minimum(lambda numbers: _loss(numbers, answers) + (weights * numbers**2).sum(), 3 * experts)


def _attenuated(answers: _Answers, direction: _Numbers, strength: float, penalty: float) -> _Numbers:
    """The gate's numbers of ``direction`` multiplied by ``strength``, and the experts' scales fitted to these."""
    experts = answers.present.shape[1]
    gate = torch.from_numpy(direction[experts:]) * strength

    def objective(scales: Tensor) -> Tensor:
        logits, weights = _mixed(torch.cat([scales, gate]), answers)
        return _cross_entropy(logits, weights, answers.labels) + _CALIBRATION_PENALTY * penalty * (scales**2).sum()

    return np.concatenate([_minimum(objective, experts), gate.numpy()])


def _minimum(objective: Callable[[Tensor], Tensor], count: int) -> _Numbers:
    from scipy.optimize import minimize

    def value_and_gradient(values: np.ndarray) -> tuple[float, np.ndarray]:
        numbers = torch.tensor(values, requires_grad=True)
        loss = objective(numbers)
        (gradient,) = torch.autograd.grad(loss, numbers)
        return loss.item(), gradient.numpy()

    fitted = minimize(value_and_gradient, np.zeros(count), jac=True, method="L-BFGS-B").x
    return np.asarray(fitted, dtype=np.float64)


def _loss(numbers: Tensor, answers: _Answers) -> Tensor:
    """Negative log-likelihood of the mixture, plus that of drawing a right expert by the weights where experts differ."""
    present = answers.present
    logits, weights = _mixed(numbers, answers)
    right = (logits.argmax(-1) == answers.labels[:, None]) & present
    differing = right.any(1) & (present & ~right).any(1)
    drawn_right = (weights[differing] * right[differing]).sum(1)
    trust = (drawn_right + _TINY).log().sum() / len(answers.labels)
    return _cross_entropy(logits, weights, answers.labels) - _TRUST * trust


def _mixed(numbers: Tensor, answers: _Answers) -> tuple[Tensor, Tensor]:
    """Scaled logits ``[N, E, C]`` and weights ``[N, E]``."""
    scale, bias, slope = _parts(numbers, answers.present.shape[1])
    logits = answers.log_p * scale[:, None]
    weights = (bias + slope * certainty(logits)).masked_fill(~answers.present, float("-inf")).softmax(-1)
    return logits, weights


def _cross_entropy(
    logits: Tensor, weights: Tensor, labels: Tensor, reduction: Literal["mean", "none"] = "mean"
) -> Tensor:
    return torch.nn.functional.cross_entropy((weights[..., None] * logits).sum(1), labels, reduction=reduction)


def _parts(numbers: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
    return numbers[:experts].exp(), numbers[experts : 2 * experts], numbers[2 * experts :]
