"""An exponential moving average of the mixture's weights, which is what is evaluated and kept."""

from __future__ import annotations

import copy

import torch

from mistere.model.mixture.mixture import MixtureOfExperts


class MovingAverage:
    """An exponential moving average of a model's weights.

    The first updates count more, so that the average follows the weights at first.

    Args:
        model: whose weights are averaged.
        epochs: horizon of the average.
    """

    def __init__(self, model: MixtureOfExperts, epochs: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.updates, self._epochs = 0, epochs

    @torch.no_grad()
    def update(self, model: MixtureOfExperts, steps: int) -> None:
        """Add the weights of ``model`` after one of the ``steps`` of an epoch."""
        self.updates += 1
        share = max(1 / (self._epochs * steps + 1), 9 / (self.updates + 9))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), share)
