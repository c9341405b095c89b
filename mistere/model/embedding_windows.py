"""Embed windows of utterances with a cache of vectors; the extraction and the batch scoring share it.

On a CPU the vector of a content is the same in every window, so the cache changes no byte. On a GPU it depends on the window
(:mod:`mistere.model.encoders.embedding`), so there the cache is keyed by the window as well. Content that a window holds several
times ("Okay.") is embedded once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from mistere.common.modalities import HasModalities, cell_of
from mistere.data.kinds.kind import UnreadableError
from mistere.model.dialogue_model import StreamEmbedder
from mistere.model.encoders.preparation import OVERFLOW, Features, overflowing
from mistere.model.vector_cache import VectorCache, window_key

U = TypeVar("U", bound=HasModalities)


@dataclass(slots=True)
class WindowItem(Generic[U]):
    """An utterance of a window.

    Attributes:
        utterance: the utterance.
        context: transcripts of the turns before it, oldest first.
        key: key of its vector in the cache; None if it lacks the modality.
        split: the split that it belongs to, for messages.
        undecodable: a sentence, if its value of the modality does not decode, or the encoder makes no numbers of it.
        is_prepared: whether the encoder has an input for it.
    """

    utterance: U
    context: tuple[str, ...]
    key: bytes | None
    split: str = ""
    undecodable: str = ""
    is_prepared: bool = False


@dataclass(frozen=True)
class EmbeddedWindow:
    """The vectors of a window.

    Attributes:
        vectors: float32 ``[n, dimension]``; a NaN row for an utterance without the modality.
        reused: how many came from the cache.
        undecodable: a sentence for each utterance whose value does not decode.
    """

    vectors: np.ndarray
    reused: int
    undecodable: list[str]


class WindowEmbedder(Generic[U]):
    """Embeds windows of utterances in one modality.

    Args:
        embedder: the modality's encoder.
        cache: vectors of earlier runs; None for no cache.
        on_unreadable: called for an utterance whose value does not decode; returns the sentence about it, or raises.
    """

    def __init__(
        self,
        embedder: StreamEmbedder,
        cache: VectorCache | None,
        on_unreadable: Callable[[WindowItem[U], UnreadableError], str],
    ) -> None:
        self._embedder, self._cache, self._on_unreadable = embedder, cache, on_unreadable

    def item(self, utterance: U, context: tuple[str, ...] = (), split: str = "") -> WindowItem[U]:
        """An utterance with the key of its vector."""
        cell = cell_of(utterance, self._embedder.modality)
        key = None if cell is None else self._embedder.kind.digest(cell, context)
        return WindowItem(utterance, context, key, split)

    def embed(self, windows: Iterable[Sequence[WindowItem[U]]]) -> Iterator[EmbeddedWindow]:
        """The vectors of a stream of windows; at most three windows are in memory."""
        pending: list[_Window[U]] = []

        def distinct() -> Iterator[list[WindowItem[U]]]:
            for items in windows:
                window = self._looked_up(list(items))
                pending.append(window)
                yield window.distinct

        for computed in self._embedder.embed_windows(distinct(), self._prepare):
            window = pending.pop(0)
            self._set_aside_overflows(window, computed)
            vectors = window.filled(computed, self._embedder.dimension)
            if self._cache is not None:
                self._keep(self._cache, window, computed)
            yield EmbeddedWindow(vectors, len(window.hits), window.undecodable())

    def _looked_up(self, items: list[WindowItem[U]]) -> _Window[U]:
        if not self._embedder.batch_invariant:
            joined = b"".join(item.key or b"-" for item in items)
            for item in items:
                item.key = item.key and window_key(joined, item.key)
        hits = self._cache.find([item.key for item in items]) if self._cache is not None else {}
        return _Window(items, hits)

    def _prepare(self, item: WindowItem[U]) -> Features | None:
        try:
            features = self._embedder.prepare(item.utterance, item.context)
        except UnreadableError as error:
            item.undecodable = self._on_unreadable(item, error)
            return None
        item.is_prepared = features is not None
        return features

    def _set_aside_overflows(self, window: _Window[U], computed: np.ndarray) -> None:
        """Treat an utterance of which the encoder makes NaN or infinity as unreadable; a NaN row would count as a missing modality."""
        for index in overflowing(computed, [item.is_prepared for item in window.distinct]):
            computed[index] = np.nan
            item = window.distinct[index]
            item.undecodable = self._on_unreadable(item, UnreadableError(OVERFLOW))

    @staticmethod
    def _keep(cache: VectorCache, window: _Window[U], computed: np.ndarray) -> None:
        cacheable = [
            index
            for index, item in enumerate(window.distinct)
            if item.key is not None and not np.isnan(computed[index, 0])
        ]
        cache.add([window.distinct[index].key or b"" for index in cacheable], computed[cacheable])


class _Window(Generic[U]):
    """A window's utterances: those with cached vectors, and the distinct ones among the others.

    Attributes:
        size: number of utterances.
        hits: cached vectors, by position.
        distinct: utterances to embed, one for each content.
    """

    def __init__(self, items: list[WindowItem[U]], hits: dict[int, np.ndarray]) -> None:
        self.size, self.hits = len(items), hits
        self._missed = [index for index in range(len(items)) if index not in hits]
        positions: dict[bytes | int, int] = {}
        self._source = [positions.setdefault(items[index].key or index, len(positions)) for index in self._missed]
        first = dict(zip(reversed(self._source), reversed(self._missed), strict=True))
        self.distinct = [items[first[position]] for position in range(len(positions))]

    def filled(self, computed: np.ndarray, dimension: int) -> np.ndarray:
        """All vectors of the window, in order."""
        vectors = np.empty((self.size, dimension), dtype=np.float32)
        vectors[self._missed] = computed[self._source]
        for index, vector in self.hits.items():
            vectors[index] = vector
        return vectors

    def undecodable(self) -> list[str]:
        """A sentence for each utterance whose value does not decode."""
        sentences = (self.distinct[position].undecodable for position in self._source)
        return [sentence for sentence in sentences if sentence]
