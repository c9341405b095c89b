"""One model's evaluation, with the files beside its figures: what a page about it, or about two of them, is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mistere.artifacts.manifests import EvaluationReport
from mistere.evaluation.gate_timeline import GateTimeline
from mistere.metrics.predictions import Predictions
from mistere.runs.outcome import Estimate

COVERAGE = "95 %"
"""Of every interval: :class:`mistere.metrics.classification.DialogueBootstrap` draws no other here."""


@dataclass(frozen=True)
class Evaluated:
    """An evaluation to be shown.

    Attributes:
        evaluation: the figures.
        predictions: each answer; None where they are not there.
        timelines: some dialogues turn by turn.
        title: names the model beside another; empty where it is alone on its page.
    """

    evaluation: EvaluationReport
    predictions: Predictions | None = None
    timelines: Sequence[GateTimeline] = ()
    title: str = ""

    def estimate(self, name: str) -> Estimate | None:
        """A metric with its interval; None where it was not measured."""
        return Estimate.of(self.evaluation.metrics, name)


def bounds_text(estimate: Estimate, signed: bool = False) -> str:
    """``0.550 to 0.670``; empty where there is no interval."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{estimate.low:+.3f} to {estimate.high:+.3f}" if signed else f"{estimate.low:.3f} to {estimate.high:.3f}"


def estimate_text(estimate: Estimate | None, signed: bool = False) -> str:
    """``0.612 (0.550 to 0.670)``."""
    if estimate is None:
        return "not measured"
    value, bounds = f"{estimate.value:+.3f}" if signed else f"{estimate.value:.3f}", bounds_text(estimate, signed)
    return f"{value} ({bounds})" if bounds else value
