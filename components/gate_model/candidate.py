"""What a rule sees of a candidate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from components.core.config.gate import GateConfig
from components.core.metrics import Interval


@dataclass(frozen=True)
class Candidate:
    """A candidate's figures.

    Attributes:
        metrics: flat metrics of the test split.
        thresholds: the ``gate`` section.
        has_champion: whether there is a champion at all.
        difference: candidate minus champion in weighted F1, paired over dialogues; None where they cannot be compared.
    """

    metrics: Mapping[str, float]
    thresholds: GateConfig
    has_champion: bool
    difference: Interval | None
