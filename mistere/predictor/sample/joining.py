"""Joins the parts of a stream: each request of it has only its latest turns, and a prediction of the last one alone.

A conversation may come by several streams, one after the other: a client whose connection is lost, or whose server stops, opens
another one with the same id of the dialogue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Final

import numpy as np

from mistere.serving.sample.dialogue import KeptDialogue, KeptStream, KeptTurn

MOST_TURNS: Final = 1024
"""Turns of one dialogue, the latest ones: more than any conversation has, so that a stream without end cannot fill the store."""


@dataclass(frozen=True)
class Part:
    """Turns of a stream that follow each other.

    Attributes:
        first: number of the first one in the stream.
        turns: of them.
        vectors: modality → ``[n, d]``, NaN for what is missing.
        stream: name of the stream; empty for turns that came as a whole.
    """

    first: int
    turns: Sequence[KeptTurn]
    vectors: Mapping[str, np.ndarray]
    stream: str = ""

    def from_turn(self, index: int) -> Part:
        """The part without the turns before one."""
        vectors = {name: rows[index:] for name, rows in self.vectors.items()}
        return replace(self, first=self.first + index, turns=self.turns[index:], vectors=vectors)


def parts_of(dialogue: KeptDialogue, vectors: Mapping[str, np.ndarray]) -> list[Part]:
    """The turns of a kept dialogue by the streams that they came by.

    Args:
        dialogue: as it lies in the store.
        vectors: of its turns, modality → ``[n, d]``.
    """
    count, at = len(dialogue.turns), 0
    parts = []
    for stream in dialogue.streams or [KeptStream(turns=count)]:
        own = slice(at, at + stream.turns)
        rows = {name: matrix[own] for name, matrix in vectors.items() if len(matrix) == count}
        parts.append(Part(stream.first, dialogue.turns[own], rows, stream.name))
        at += stream.turns
    return [part for part in parts if part.turns]


def add(parts: Sequence[Part], later: Part) -> list[Part]:
    """Join a part with the one of the same stream; the part of another stream follows those that there are.

    Only the latest :data:`MOST_TURNS` turns stay.

    Args:
        parts: what is kept.
        later: what was answered then.
    """
    streams = [part.stream for part in parts]
    index = streams.index(later.stream) if later.stream in streams else len(parts)
    if "" in streams[:index]:  # the stream's earlier turns came again as a whole meanwhile; it has them as context
        before = parts[index].first - later.first if index < len(parts) else len(later.turns)
        context = next((number for number, turn in enumerate(later.turns) if turn.predicted), len(later.turns))
        later = later.from_turn(max(0, min(context, before)))
    joined = [*parts, later]
    if index < len(parts):
        joined = [*parts[:index], join(parts[index], later), *parts[index + 1 :]]
    excess = sum(len(part.turns) for part in joined) - MOST_TURNS
    while excess > 0:
        oldest = joined.pop(0)
        if len(oldest.turns) > excess:
            joined.insert(0, oldest.from_turn(excess))
        excess -= len(oldest.turns)
    return joined


def one_after_the_other(parts: Sequence[Part]) -> Part:
    """The turns of several streams as if they had come by one."""
    return reduce(lambda before, part: join(before, replace(part, first=before.first + len(before.turns))), parts)


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
    return Part(later.first - at_later + count - len(turns), turns, vectors, later.stream)
