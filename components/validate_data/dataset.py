"""A dataset under validation: what it declares, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.validate_data.facts.dataset_facts import Facts
    from components.validate_data.facts.drift import Drift


@dataclass(frozen=True)
class Declared:
    """What a dataset declares about itself.

    Attributes:
        name: its name.
        labels: in order.
        language: a tag such as ``en``.
        speaker_disjoint: whether it promises that no speaker is in two splits.
        modalities: the kinds of the modalities beside speech and text.
        predict_roles: the roles whose turns are predicted; empty for all turns.
    """

    name: str
    labels: Sequence[str]
    language: str
    speaker_disjoint: bool
    modalities: Mapping[str, str] = field(default_factory=dict)
    predict_roles: Sequence[str] = ()


@dataclass(frozen=True)
class Dataset:
    """What expectations are about.

    Attributes:
        declared: what the dataset declares.
        facts: what was measured.
        drifts: distances from the champion's dataset; empty without a champion that has a data profile.
    """

    declared: Declared
    facts: Facts
    drifts: Sequence[Drift] = ()
