"""Joins the parts of a stream: each request of it has only its latest turns, and a prediction of the last one alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from mistere.serving.sample.dialogue import KeptTurn

MOST_TURNS: Final = 1024
"""Turns of one dialogue, the latest ones: more than any conversation has, so that a stream without end cannot fill the store."""


@dataclass(frozen=True)
class Part:
    """Turns of a stream that follow each other.

    Attributes:
        first: number of the first one in the stream.
        turns: of them.
        vectors: modality → ``[n, d]``, NaN for what is missing.
    """

    first: int
    turns: Sequence[KeptTurn]
    vectors: Mapping[str, np.ndarray]


def join(before: Part, later: Part) -> Part:
    """All turns of two parts, each once. A turn that was predicted stays so where the other part has it as context.

    Parts between which turns are missing, because their answers were dropped, are joined without them.

    Args:
        before: what is kept.
        later: what was answered then; its turns may also lie before or within the others.
    """
    offset = min(max(later.first - before.first, -len(later.turns)), len(before.turns))
    at, at_later = max(0, -offset), max(0, offset)
    count = max(at + len(before.turns), at_later + len(later.turns))
    kept: list[KeptTurn | None] = [None] * count
    kept[at : at + len(before.turns)] = before.turns
    for index, turn in enumerate(later.turns, at_later):
        earlier = kept[index]
        if earlier is None or turn.predicted or not earlier.predicted:
            kept[index] = turn
    vectors = {}
    for modality in {**before.vectors, **later.vectors}:
        parts = [
            (start, part.vectors[modality])
            for start, part in ((at, before), (at_later, later))
            if len(part.vectors.get(modality, ())) == len(part.turns)
        ]
        if not parts:
            continue
        matrix = np.full((count, parts[-1][1].shape[1]), np.nan, np.float16)
        for start, rows in parts:
            if rows.shape[1] == matrix.shape[1]:
                known = np.isfinite(rows).all(axis=1)
                matrix[start : start + len(rows)][known] = rows[known]
        vectors[modality] = matrix[-MOST_TURNS:]
    turns = [turn for turn in kept if turn is not None][-MOST_TURNS:]
    return Part(later.first - at_later + count - len(turns), turns, vectors)
