"""Embed dialogues again under changes of their input, window by window: one change after another in memory, nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mistere.data.dataset import Utterance
from mistere.data.kinds.kind import UnreadableError

if TYPE_CHECKING:
    from mistere.model.encoders.embedding import Embedder
    from mistere.model.encoders.preparation import Features

DialogueChange = Callable[[Sequence[Utterance]], Sequence[Utterance]]
_WINDOW = 64
"""Utterances of a window, at least."""


@dataclass(frozen=True)
class _Item:
    utterance: Utterance
    context: tuple[str, ...]


def embed_changed(
    embedder: Embedder,
    dialogues: Iterable[Sequence[Utterance]],
    changes: Mapping[str, DialogueChange],
    on_dialogues: Callable[[int], object] = lambda _: None,
) -> dict[str, dict[str, np.ndarray]]:
    """Vectors of changed dialogues.

    Args:
        embedder: of one modality.
        dialogues: the unchanged dialogues, with that modality.
        changes: by name; a change may leave out turns.
        on_dialogues: called with the number of dialogues that were embedded, each once for each change.

    Returns:
        By change and dialogue, float32 ``[n, d]``; a NaN row for a turn without the modality, or whose value does not decode.
    """
    vectors_by_change: dict[str, dict[str, np.ndarray]] = {name: {} for name in changes}
    pending: list[tuple[str, list[tuple[str, int]]]] = []

    def windows() -> Iterator[list[_Item]]:
        for window in _in_windows(dialogues):
            for name, change in changes.items():
                changed = [change(dialogue) for dialogue in window]
                pending.append((name, [(d[0].dialogue_id, len(new)) for d, new in zip(window, changed, strict=True)]))
                yield [item for dialogue in changed for item in _items(embedder, dialogue)]

    def prepare(item: _Item) -> Features | None:
        try:
            return embedder.prepare(item.utterance, item.context)
        except UnreadableError:
            return None

    for vectors in embedder.embed_windows(windows(), prepare):
        name, spans = pending.pop(0)
        start = 0
        for dialogue, length in spans:
            vectors_by_change[name][dialogue] = vectors[start : start + length]
            start += length
        on_dialogues(len(spans))
    return vectors_by_change


def _items(embedder: Embedder, dialogue: Sequence[Utterance]) -> list[_Item]:
    """The utterances of a dialogue, with the texts of the turns before each."""
    texts = [utterance.text or "" for utterance in dialogue]
    turns = embedder.settings.context_turns
    return [_Item(one, tuple(texts[max(0, at - turns) : at])) for at, one in enumerate(dialogue)]


def _in_windows(dialogues: Iterable[Sequence[Utterance]]) -> Iterator[list[Sequence[Utterance]]]:
    window: list[Sequence[Utterance]] = []
    for dialogue in dialogues:
        window.append(dialogue)
        if sum(map(len, window)) >= _WINDOW:
            yield window
            window = []
    if window:
        yield window
