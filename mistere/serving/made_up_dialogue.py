"""A dialogue that nobody said, for trying an endpoint without anybody's data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from mistere.data.dataset import Utterance
from mistere.data.kinds import kind_of

if TYPE_CHECKING:
    import numpy as np

_TURNS: Final = 3


def made_up_dialogue(kinds: Mapping[str, str], widths: Mapping[str, int | None] | None = None) -> list[Utterance]:
    """Three utterances, the same in every call; empty if no modality of the model can be made up.

    Args:
        kinds: the kind of each modality.
        widths: the number of values of a modality whose kind has the same number everywhere.
    """
    dialogue, empty = [], True
    for turn in range(_TURNS):
        utterance = Utterance("example", turn, label="")
        for name, kind in kinds.items():
            cell = kind_of(kind).made_up(turn, (widths or {}).get(name))
            if cell is not None:
                utterance, empty = utterance.with_cell(name, cell), False
        dialogue.append(utterance)
    return [] if empty else dialogue


def made_up_vectors(dimensions: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The same for a model of vectors: float32 ``[n, d]`` by modality."""
    import numpy as np

    vector = kind_of("vector")
    rows: dict[str, list[Any]] = {
        name: [vector.made_up(turn, width) for turn in range(_TURNS)] for name, width in dimensions.items()
    }
    return {name: np.stack(cells) for name, cells in rows.items()}
