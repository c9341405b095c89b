"""Score a stream of turns: vectors window by window, and a prediction for each dialogue as soon as it is complete.

The numbers are those of the endpoint for the same dialogue. Memory does not grow with the archive: three windows of turns with their
recordings are held, and the vectors of the dialogues that are not complete yet. A window holds turns of one shard, so what is computed
together does not depend on the other shards of a task; the next shard is begun while the tables of one are written.
"""

from __future__ import annotations

import itertools
from collections import defaultdict, deque
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from mistere.artifacts.object_store import ObjectStore
from mistere.common.errors import DataError, UsageError
from mistere.common.modalities import SPEECH, TEXT
from mistere.common.names import shown
from mistere.common.progress import Progress
from mistere.data.dataset import Utterance
from mistere.data.kinds.kind import UnreadableError
from mistere.data.text_repair import is_blank
from mistere.model.dialogue_model import EmotionModel
from mistere.model.embedding_windows import WindowEmbedder, WindowItem
from mistere.model.torch_threads import one_core_each
from mistere.model.vector_cache import VectorCache, vectors_identity
from mistere.scoring.archive import ArchiveTurn
from mistere.scoring.scored_dialogue import ScoredDialogue

_NAMED = 20
"""Undecodable values of a shard that are named; all are counted."""


@dataclass
class ScoringCounts:
    """What was met on the way.

    Attributes:
        reused: vectors from the cache.
        undecodable: values that do not decode.
        named: sentences about the first of them.
    """

    reused: int = 0
    undecodable: int = 0
    named: list[str] = field(default_factory=list)


@dataclass
class _ReadWindow:
    """A window of turns.

    Attributes:
        shard: position of their shard.
        turns: the turns, in order.
        before: for each, the transcripts of the turns before it, oldest first; None for one without.
    """

    shard: int
    turns: list[ArchiveTurn] = field(default_factory=list)
    before: list[tuple[str | None, ...]] = field(default_factory=list)


class Scorer:
    """Scores turns with a released model.

    Args:
        model: the model.
        store: holds the cache of vectors, unless ``cache`` names another place.
        cache: as :meth:`VectorCache.open` takes it.
        undecodable: whether a value that does not decode is left out or ends the scoring.
        progress: gets a note about a damaged cache.

    Attributes:
        counts: by the position of a shard; complete as soon as a dialogue of a later one was yielded.
    """

    def __init__(
        self,
        model: EmotionModel,
        store: ObjectStore,
        cache: str = "store",
        undecodable: Literal["missing", "fail"] = "missing",
        progress: Progress | None = None,
    ) -> None:
        self._model, self._undecodable = model, undecodable
        self.counts: dict[int, ScoringCounts] = {}
        self._windows: dict[str, WindowEmbedder[Utterance]] = {}
        for modality, embedder in model.embedders.items():
            identity = vectors_identity(model.encoder_digests[modality], embedder)
            opened = VectorCache.open(cache, store, identity, progress or Progress("score"))
            self._windows[modality] = WindowEmbedder(embedder, opened, self._unreadable)
        self._rows = min(embedder.kind.rows_per_window for embedder in model.embedders.values())
        self._context = max(embedder.settings.context_turns for embedder in model.embedders.values())

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities to read: those of the model, and speech if it is transcribed."""
        heard = (SPEECH,) if self._model.transcriber is not None else ()
        context = (TEXT,) if self._context else ()
        return tuple(dict.fromkeys([*self._windows, *heard, *context]))

    def score(
        self, shards: Iterable[Iterable[ArchiveTurn]], predict_roles: Collection[str] = ()
    ) -> Iterator[tuple[int, ScoredDialogue]]:
        """Score the dialogues of shards, each with the position of its shard.

        Args:
            shards: the turns that belong to each shard, dialogue by dialogue, in order.
            predict_roles: roles whose turns are predicted, the others being context; empty for all.

        Raises:
            DataError: a value does not decode, and that is not allowed.
        """
        self.counts = defaultdict(ScoringCounts)
        # Generators that embed set PyTorch's threads while they are suspended; the outer context restores them at the end.
        with one_core_each(), closing(self._embedded(shards)) as windows:
            for shard, parts in itertools.groupby(windows, lambda part: part[0].shard):
                for dialogue in self._dialogues(((window.turns, vectors) for window, vectors in parts), predict_roles):
                    yield shard, dialogue

    def _dialogues(
        self, windows: Iterable[tuple[list[ArchiveTurn], dict[str, np.ndarray]]], predict_roles: Collection[str]
    ) -> Iterator[ScoredDialogue]:
        """The dialogues of one shard's windows."""
        open_turns: list[ArchiveTurn] = []
        open_rows: list[dict[str, np.ndarray]] = []
        for window, vectors in windows:
            complete: list[tuple[list[ArchiveTurn], dict[str, np.ndarray]]] = []
            start = 0
            for index, turn in enumerate(window):
                if open_turns and turn.utterance.dialogue_id != open_turns[-1].utterance.dialogue_id:
                    open_rows.append({name: rows[start:index] for name, rows in vectors.items()})
                    complete.append((open_turns, _joined(open_rows)))
                    open_turns, open_rows, start = [], [], index
                open_turns.append(_without_content(turn))
            open_rows.append({name: rows[start:] for name, rows in vectors.items()})
            yield from self._predicted(complete, predict_roles)
        if open_turns:
            yield from self._predicted([(open_turns, _joined(open_rows))], predict_roles)

    def _embedded(
        self, shards: Iterable[Iterable[ArchiveTurn]]
    ) -> Generator[tuple[_ReadWindow, dict[str, np.ndarray]], None, None]:
        """Windows of turns with their vectors ``[n, d]`` by modality."""
        windows, *copies = _copies(self._read(shards), len(self._windows) + 1)
        streams = [
            embedder.embed(self._items(name, copy))
            for (name, embedder), copy in zip(self._windows.items(), copies, strict=True)
        ]
        for parts in zip(*streams, strict=True):
            window = next(windows)
            counts = self.counts[window.shard]
            for part in parts:
                counts.reused += part.reused
                counts.undecodable += len(part.undecodable)
                counts.named += part.undecodable[: max(0, _NAMED - len(counts.named))]
            yield window, {name: part.vectors for name, part in zip(self._windows, parts, strict=True)}

    def _items(self, modality: str, windows: Iterable[_ReadWindow]) -> Iterator[list[WindowItem[Utterance]]]:
        count = self._model.settings(modality).context_turns
        embedder = self._windows[modality]
        for window in windows:
            yield [
                embedder.item(turn.utterance, tuple(text for text in (before[-count:] if count else ()) if text))
                for turn, before in zip(window.turns, window.before, strict=True)
            ]

    def _read(self, shards: Iterable[Iterable[ArchiveTurn]]) -> Iterator[_ReadWindow]:
        for shard, turns in enumerate(shards):
            earlier: deque[str | None] = deque(maxlen=max(1, self._context))
            dialogue: str | None = None
            stream = iter(turns)
            while part := list(itertools.islice(stream, self._rows)):
                window = _ReadWindow(shard)
                for turn in self._transcribed(part):
                    if turn.utterance.dialogue_id != dialogue:
                        dialogue = turn.utterance.dialogue_id
                        earlier.clear()
                    window.turns.append(turn)
                    window.before.append(tuple(earlier))
                    earlier.append(turn.utterance.text)
                yield window

    def _transcribed(self, window: list[ArchiveTurn]) -> list[ArchiveTurn]:
        """The turns with transcripts of those that have audio and no text, if the model transcribes."""
        transcriber = self._model.transcriber
        if transcriber is None:
            return window
        unread = [i for i, t in enumerate(window) if t.utterance.audio and is_blank(t.utterance.text or "")]
        clips = [window[index].utterance.audio or b"" for index in unread]
        completed = list(window)
        for index, text in zip(unread, transcriber.texts(clips), strict=True):
            completed[index] = replace(window[index], utterance=replace(window[index].utterance, text=text or None))
        return completed

    def _predicted(
        self, dialogues: Sequence[tuple[list[ArchiveTurn], dict[str, np.ndarray]]], predict_roles: Collection[str]
    ) -> Iterator[ScoredDialogue]:
        if not dialogues:
            return
        predictions = self._model.predict_embeddings([vectors for _, vectors in dialogues])
        for (turns, _), prediction in zip(dialogues, predictions, strict=True):
            roles = [not predict_roles or turn.utterance.role in predict_roles for turn in turns]
            readable = any(names != "none" for names in prediction.modalities)
            yield ScoredDialogue(turns, prediction, np.array(roles), readable)

    def _unreadable(self, item: WindowItem[Utterance], error: UnreadableError) -> str:
        one, reason = item.utterance, str(error).rstrip(".")
        sentence = f"dialogue {shown(one.dialogue_id)}, turn {one.turn}: {reason[:1].lower()}{reason[1:]}"
        if self._undecodable == "fail":
            raise DataError(f"{sentence}: fix it, or score without it by scoring.undecodable=missing.") from error
        return sentence


def check_modalities(model: EmotionModel, kinds: Mapping[str, str], present: Collection[str]) -> list[str]:
    """Check that an archive has something that a model reads.

    Args:
        model: the model.
        kinds: the kinds of the modalities that the archive declares.
        present: the modalities of which it has a value.

    Returns:
        The modalities of the model that the archive lacks; its turns are scored without them.

    Raises:
        UsageError: the model takes vectors only, or has no modality in common with the archive, or one is of another kind.
    """
    if not model.encoder_digests:
        raise UsageError(
            f"the model {model.bundle.digest[:12]} takes vectors and has no encoders: name one that `mistere run` released."
        )
    for name, embedder in model.embedders.items():
        if name in present and kinds[name] != embedder.kind.name:
            raise UsageError(
                f"the modality {name} of the dataset is of the kind {kinds[name]}, and the model reads {embedder.kind.name}: choose "
                "another model with --model, or correct dataset.yaml."
            )
    heard = {TEXT} if model.transcriber is not None and SPEECH in present else set()
    missing = [name for name in model.embedders if name not in {*present, *heard}]
    if len(missing) == len(model.embedders):
        raise UsageError(
            f"the model reads {', '.join(model.embedders)}, and the dataset has {', '.join(sorted(present)) or 'no content'}: choose "
            "another model with --model, or another dataset."
        )
    return missing


def _copies(windows: Iterable[_ReadWindow], count: int) -> list[Iterator[_ReadWindow]]:
    """Iterators over the same windows, each of which is let go once all have passed it.

    ``itertools.tee`` keeps items in blocks of 57, until all iterators have left a block: 57 windows with their recordings.
    """
    source, waiting = iter(windows), [deque[_ReadWindow]() for _ in range(count)]

    def copy(queue: deque[_ReadWindow]) -> Iterator[_ReadWindow]:
        while True:
            if not queue:
                window = next(source, None)
                if window is None:
                    return
                for one in waiting:
                    one.append(window)
                del window
            yield queue.popleft()

    return [copy(queue) for queue in waiting]


def _without_content(turn: ArchiveTurn) -> ArchiveTurn:
    one = turn.utterance
    return replace(turn, utterance=Utterance(one.dialogue_id, one.turn, None, role=one.role))


def _joined(parts: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
