"""The conditions of the robustness measurements: a modality, degraded in one of the ways that its kind knows.

A condition of speech or text has the name of the degradation (``noise_20db``), one of another modality its name before it
(``face_blur``).
"""

from __future__ import annotations

from dataclasses import dataclass

from mistere.common.modalities import IMPLICIT_KINDS
from mistere.data.kinds import kind_of, kinds
from mistere.data.kinds.kind import Degradation


@dataclass(frozen=True)
class Condition:
    """A condition.

    Attributes:
        name: in metrics and settings.
        modality: what is degraded.
        words: describes it in reports.
        degradation: how.
    """

    name: str
    modality: str
    words: str
    degradation: Degradation


def conditions_of(modality: str, kind: str) -> list[Condition]:
    """The conditions of a modality of this kind, in order."""
    if modality in IMPLICIT_KINDS:
        return [Condition(name, modality, each.words, each) for name, each in kind_of(kind).degradations.items()]
    return [
        Condition(f"{modality}_{name}", modality, f"{modality}: {each.words}", each)
        for name, each in kind_of(kind).degradations.items()
    ]


def usual_conditions() -> dict[str, Condition]:
    """The conditions of speech and text by name, in order."""
    return {one.name: one for modality, kind in IMPLICIT_KINDS.items() for one in conditions_of(modality, kind)}


def condition_named(name: str) -> Condition | None:
    """The condition of this name, of any modality; None if no kind knows such a degradation."""
    usual = usual_conditions().get(name)
    if usual is not None:
        return usual
    for kind in kinds().values():
        for degradation in kind.degradations:
            modality = name.removesuffix(f"_{degradation}")
            if modality != name and modality:
                return next(one for one in conditions_of(modality, kind.name) if one.name == name)
    return None
