"""The evaluation of one model with its files, as the pages show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mistere.artifacts.manifests import EvaluationReport
from mistere.evaluation.gate_timeline import GateTimeline
from mistere.metrics.predictions import Predictions
from mistere.runs.outcome import Estimate

COVERAGE = "95 %"
"""Coverage of every interval; see :class:`mistere.metrics.classification.DialogueBootstrap`."""


@dataclass(frozen=True)
class Evaluated:
    """An evaluation that a page shows.

    Attributes:
        evaluation: the metrics.
        predictions: of each test utterance; None if missing.
        timelines: the gate's weights in some dialogues, turn by turn.
        title: names the model beside another one; empty on a page of its own.
    """

    evaluation: EvaluationReport
    predictions: Predictions | None = None
    timelines: Sequence[GateTimeline] = ()
    title: str = ""

    def estimate(self, name: str) -> Estimate | None:
        """A metric with its interval; None if it was not measured."""
        return Estimate.of(self.evaluation.metrics, name)


def bounds_text(estimate: Estimate, signed: bool = False) -> str:
    """``0.550 to 0.670``; empty without an interval."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{estimate.low:+z.3f} to {estimate.high:+z.3f}" if signed else f"{estimate.low:.3f} to {estimate.high:.3f}"


def estimate_text(estimate: Estimate | None, signed: bool = False) -> str:
    """``0.612 (0.550 to 0.670)``; ``no difference`` for a signed figure that is exactly 0."""
    if estimate is None:
        return "not measured"
    if signed and estimate.exactly_zero:
        return "no difference"
    value, bounds = f"{estimate.value:+z.3f}" if signed else f"{estimate.value:.3f}", bounds_text(estimate, signed)
    return f"{value} ({bounds})" if bounds else value
