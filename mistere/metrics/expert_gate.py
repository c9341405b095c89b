"""Statistics of the expert gate: mean weights, leading experts, entropy, and collapse onto one expert."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_LEADS = 0.98
_MEAN = 0.9
_EVEN = 0.99
"""With two experts, weights of 0.56 and 0.44."""


@dataclass(frozen=True)
class GateStatistics:
    """Gate weights over some utterances. ``led`` and ``entropy`` are None if no utterance has several experts.

    Attributes:
        mean: mean weight of each expert, over all utterances.
        led: for each expert, the share of the utterances with several experts in which its weight is the largest; ties are
            split, so the shares sum to 1.
        entropy: of the weights, divided by the logarithm of the number of experts present, so that 0 means one expert
            alone and 1 equal weights; the mean over the utterances with several experts.
    """

    mean: dict[str, float]
    led: dict[str, float] | None
    entropy: float | None

    def metrics(self, prefix: str = "") -> dict[str, float]:
        """Flat: ``gate.<expert>.mean``, ``gate.<expert>.led``, ``gate.entropy``; unknown values are left out."""
        flat = {f"{prefix}gate.{name}.mean": value for name, value in self.mean.items()}
        flat |= {f"{prefix}gate.{name}.led": value for name, value in (self.led or {}).items()}
        if self.entropy is not None:
            flat[f"{prefix}gate.entropy"] = self.entropy
        return flat


def gate_statistics(weights: np.ndarray, experts: Sequence[str]) -> GateStatistics:
    """Statistics of gate weights.

    Args:
        weights: ``[N, E]``, exactly 0 where an expert is absent; rows sum to 1, or to 0 without any expert.
        experts: their names, in the weights' order.
    """
    weights = weights.astype(np.float64)
    mean = {name: float(weights[:, index].mean()) for index, name in enumerate(experts)}
    present = (weights > 0).sum(1)
    choice = weights[present > 1]
    if not len(choice):
        return GateStatistics(mean, None, None)
    leads = choice == choice.max(1, keepdims=True)
    shares = (leads / leads.sum(1, keepdims=True)).mean(0)
    logarithms = np.log(choice, out=np.zeros_like(choice), where=choice > 0)
    entropy = -(choice * logarithms).sum(1) / np.log(present[present > 1])
    led = {name: float(share) for name, share in zip(experts, shares, strict=True)}
    return GateStatistics(mean, led, float(np.clip(entropy.mean(), 0, 1)))


def collapsed_gate(metrics: Mapping[str, float], experts: Sequence[str]) -> str | None:
    """A sentence if the gate relies on one expert nearly always and nearly entirely, else None.

    Args:
        metrics: with ``test.gate.<expert>.mean`` and ``test.gate.<expert>.led``.
        experts: their names, the unimodal ones first and the cross-modal one last.
    """
    for name in experts:
        led, mean = metrics.get(f"test.gate.{name}.led", 0.0), metrics.get(f"test.gate.{name}.mean", 0.0)
        if led >= _LEADS and mean >= _MEAN:
            unimodal = experts[:-1]
            alone = f", or keep that modality alone (mixture.modalities: [{name}])"
            return (
                f"The gate has collapsed onto the {name.replace('_', '-')} expert, which leads {_percent(led)} of the test "
                f"utterances and has a mean weight of {mean:.2f}, so the other experts contribute almost nothing: raise "
                "mixture.gate_temperature, which makes the weights more even, or mixture.consistency_weight, which makes "
                f"the others learn from it{alone if name in unimodal and len(unimodal) > 1 else ''}."
            )
    return None


def evenness_words(metrics: Mapping[str, float]) -> str:
    """The evenness of the weights, and what it means where they are nearly equal; empty without several experts.

    Args:
        metrics: with ``test.gate.entropy``.
    """
    entropy = metrics.get("test.gate.entropy")
    if entropy is None:
        return ""
    words = f"evenness {entropy:.2f}"
    if entropy < _EVEN:
        return words
    return f"{words}: the weights are nearly equal, so the mixture is close to the plain mean, and which expert leads changes little"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share < 0.995 or share == 1 else f"{100 * share:.1f} %"
