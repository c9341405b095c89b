"""Figures under the effects of real calls as flat metrics, and read back from them; readers need no model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mistere.metrics.classification import Interval

PREFIX: Final = "test.calls."
DIFFERENCE: Final = "champion.calls.{name}.difference"
"""Template of the metric with weighted F1 under a level minus the champion's, paired."""


@dataclass(frozen=True)
class ModelFigures:
    """A model at a level.

    Attributes:
        weighted_f1: weighted F1.
        ece: expected calibration error.
        loss: what weighted F1 loses on the same turns against the unchanged input, paired; None for the unchanged input itself.
    """

    weighted_f1: Interval
    ece: Interval
    loss: Interval | None = None


@dataclass(frozen=True)
class LevelFigures:
    """The models at a level.

    Attributes:
        turns: number of turns with a label that are left.
        model: the model.
        other: the model beside it; None for none, or if it lacks the modality.
        difference: weighted F1 of the model minus that of the other, paired.
    """

    turns: int
    model: ModelFigures
    other: ModelFigures | None = None
    difference: Interval | None = None


@dataclass(frozen=True)
class CallFigures:
    """The figures without any effect, and by the name of the level. A level of a modality that the model lacks is left out."""

    clean: LevelFigures
    levels: Mapping[str, LevelFigures]

    def metrics(self) -> dict[str, float]:
        """Flat: ``test.calls.<level>.weighted_f1``, ``….ece`` and ``….loss``, and ``champion.calls.<level>.difference``, with bounds."""
        named: dict[str, Interval] = {}
        for name, level in {"clean": self.clean, **self.levels}.items():
            named[f"{PREFIX}{name}.weighted_f1"] = level.model.weighted_f1
            named[f"{PREFIX}{name}.ece"] = level.model.ece
            if level.model.loss is not None:
                named[f"{PREFIX}{name}.loss"] = level.model.loss
            if level.difference is not None:
                named[DIFFERENCE.format(name=name)] = level.difference
        flat: dict[str, float] = {}
        for name, score in named.items():
            flat |= {name: score.value, f"{name}.low": score.low, f"{name}.high": score.high}
        return {name: round(value, 8) for name, value in flat.items()}
