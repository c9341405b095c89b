"""Fits a mixture's gate and the calibration of its experts on dev.

A gate that is trained together with the experts trusts the expert that fits train best. On dev, no expert has seen the labels. The
fit has three numbers for each expert and shrinks them to the plain mean of the experts, as strongly as a cross-validation over dev's
dialogues says.

The mixture's likelihood alone hardly determines the weights: the experts' scales and the weights can replace each other, and a flat
prediction has little effect whatever its weight. A small second term makes the weights say which expert is right. It costs likelihood
where experts are calibrated and independent, so it only decides the direction in which the weights leave the mean: how far they go is the
likelihood's choice, again by cross-validation. The order of an utterance's weights does not depend on that.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
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
_STRENGTHS: Final = (1.0, 0.6, 0.35, 0.2, 0.1)
"""Factors of the gate's numbers that the cross-validation chooses from."""
_FOLDS: Final = 5
_TINY: Final = 1e-9
_Numbers = np.ndarray[Any, np.dtype[np.float64]]


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
    dialogues = data.split("dev")
    predicted = predict(model, [data.read(dialogue) for dialogue in dialogues], 1.0)
    probabilities = np.concatenate([one.expert_probabilities for one in predicted]).astype(np.float64)
    return _Answers(
        torch.from_numpy(np.log(np.maximum(probabilities, _TINY))),
        torch.from_numpy(np.concatenate([one.expert_weights for one in predicted]) > 0),
        torch.from_numpy(np.concatenate([dialogue.labels for dialogue in dialogues])),
        np.concatenate([np.full(len(dialogue), index) for index, dialogue in enumerate(dialogues)]),
    )


def _fit(answers: _Answers, seed: int) -> _Numbers:
    """Logarithms of the experts' scales, the gate's constants and its factors ``[3 E]``."""
    folds = _folds(answers, seed)
    penalty = _best(_PENALTIES, answers, folds, _direction, _loss)
    strength = _best(_STRENGTHS, answers, folds, partial(_attenuated, penalty=penalty), _mixture_loss)
    return _attenuated(answers, strength, penalty=penalty)


def _folds(answers: _Answers, seed: int) -> list[list[int]]:
    """Dialogues of each fold; none if there are fewer than two dialogues."""
    names = sorted(set(answers.dialogues.tolist()))
    random.Random(seed).shuffle(names)  # noqa: S311  (the seed must reproduce the fit)
    folds = min(_FOLDS, len(names))
    return [names[start::folds] for start in range(folds)] if folds > 1 else []


def _best(
    candidates: Sequence[float],
    answers: _Answers,
    folds: Sequence[Sequence[int]],
    fit: Callable[[_Answers, float], np.ndarray],
    loss: Callable[[Tensor, _Answers], Tensor],
) -> float:
    """The candidate with the lowest loss on the dialogues that its fit has not seen; the last one without folds."""
    if not folds:
        return candidates[-1]
    parts = [(answers.only(~held), answers.only(held)) for held in (np.isin(answers.dialogues, fold) for fold in folds)]
    losses = [
        sum(float(loss(torch.from_numpy(fit(seen, candidate)), unseen)) * len(unseen.labels) for seen, unseen in parts)
        for candidate in candidates
    ]
    return candidates[int(np.argmin(losses))]


def _direction(answers: _Answers, penalty: float) -> _Numbers:
    """The numbers with the penalised minimum of both terms."""
    experts = answers.present.shape[1]
    weights = torch.cat([torch.full((experts,), _CALIBRATION_PENALTY), torch.ones(2 * experts)]).double() * penalty
    return _minimum(lambda numbers: _loss(numbers, answers) + (weights * numbers**2).sum(), 3 * experts)


def _attenuated(answers: _Answers, strength: float, *, penalty: float) -> _Numbers:
    """The numbers of :func:`_direction` with the gate's multiplied by ``strength``, and the experts' scales fitted to these."""
    experts = answers.present.shape[1]
    gate = torch.from_numpy(_direction(answers, penalty)[experts:]) * strength

    def objective(scales: Tensor) -> Tensor:
        return _mixture_loss(torch.cat([scales, gate]), answers) + _CALIBRATION_PENALTY * penalty * (scales**2).sum()

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
    logits, weights, present, labels = _mixed(numbers, answers)
    right = (logits.argmax(-1) == labels[:, None]) & present
    differing = right.any(1) & (present & ~right).any(1)
    drawn_right = (weights[differing] * right[differing]).sum(1)
    trust = (drawn_right + _TINY).log().sum() / max(1, len(labels))
    return _likelihood(logits, weights, labels) - _TRUST * trust


def _mixture_loss(numbers: Tensor, answers: _Answers) -> Tensor:
    """Negative log-likelihood of the mixture."""
    logits, weights, _, labels = _mixed(numbers, answers)
    return _likelihood(logits, weights, labels)


def _mixed(numbers: Tensor, answers: _Answers) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scaled logits ``[N, E, C]``, weights ``[N, E]``, presence and labels of the utterances with any expert."""
    known = answers.present.any(1)
    present, labels = answers.present[known], answers.labels[known]
    scale, bias, slope = _parts(numbers, present.shape[1])
    logits = answers.log_p[known] * scale[:, None]
    weights = (bias + slope * confidence(logits)).masked_fill(~present, float("-inf")).softmax(-1)
    return logits, weights, present, labels


def _likelihood(logits: Tensor, weights: Tensor, labels: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy((weights[..., None] * logits).sum(1), labels)


def _parts(numbers: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
    return numbers[:experts].exp(), numbers[experts : 2 * experts], numbers[2 * experts :]
