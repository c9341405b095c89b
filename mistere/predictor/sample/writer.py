"""Writes kept dialogues to the store from a thread of its own, and deletes them when their time is over.

A request only puts a reference into a queue that is bounded in bytes. A store that fails or is slow delays no answer: what does not
fit is dropped and counted.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from mistere.artifacts.object_store import ObjectStore
from mistere.predictor import metrics
from mistere.predictor.sample.joining import Part, add, one_after_the_other, parts_of
from mistere.predictor.scheduling.observer_thread import ObserverThread, Outages
from mistere.predictor.stream.origin import StreamOrigin
from mistere.serving.sample.dialogue import KeptDialogue, KeptStream, KeptTurn, pack_vectors
from mistere.serving.sample.places import DAY_SECONDS, DIALOGUES, day_of, folder_of, hashing_key, path, sweep
from mistere.serving.sample.reading import read_dialogue, read_vectors

logger = logging.getLogger("kserve.predictor")

QUEUE_BYTES: Final = 64 << 20
"""Texts, recordings, vectors and answers that wait to be written, at most."""
QUEUE_DIALOGUES: Final = 4096
"""Dialogues that wait, at most: small ones cost more memory than their contents."""
_SWEEP_SECONDS: Final = 6 * 3600
_REMEMBERED: Final = 4096
"""Dialogues of which the writer remembers what it has written."""
_MOST_CLIPS: Final = 1024
"""Recordings of one dialogue: more than any conversation has, so that one id cannot fill the store."""


@dataclass(frozen=True)
class Answered:
    """A dialogue of an answered request.

    Attributes:
        dialogue_id: the client's; it is hashed before it is written.
        at: when it was answered, seconds since 1970.
        bundle_digest: of the model.
        labels: of the model.
        experts: of the answer.
        sent_vectors: whether the client sent vectors.
        turns: makes the turns, in the writer's thread.
        clips: the recordings by SHA-256.
        vectors: makes the vectors, modality → ``[n, d]``, in the writer's thread.
        size: bytes that it holds in memory.
        origin: the stream of which the turns are the latest ones; None for a request that came as a whole.
    """

    dialogue_id: str
    at: float
    bundle_digest: str
    labels: list[str]
    experts: list[str]
    sent_vectors: bool
    turns: Callable[[], Sequence[KeptTurn]]
    clips: Mapping[str, bytes]
    vectors: Callable[[], Mapping[str, np.ndarray]]
    size: int
    origin: StreamOrigin | None = None


@dataclass
class _Written:
    """What is in the store of a dialogue.

    Attributes:
        began_at: when its first request was answered, seconds since 1970.
        keep_until: its last day.
        clips: the recordings.
    """

    began_at: float
    keep_until: str
    clips: set[str] = field(default_factory=set)


class SampleWriter(ObserverThread):
    """Writes dialogues.

    Args:
        store: the object store.
        days: how long a dialogue is kept, days.
        queue_bytes: what may wait to be written, bytes.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        store: ObjectStore,
        days: int,
        queue_bytes: int = QUEUE_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__("sample")
        self._store, self._days, self._limit, self._clock = store, days, queue_bytes, clock
        self._key: bytes | None = None
        self._written: OrderedDict[str, _Written] = OrderedDict()
        self._waiting: OrderedDict[tuple[str, int], Answered] = OrderedDict()
        """By dialogue, and for parts of streams by a number, since none of them replaces another."""
        self._held = self._parts = 0
        self._outages = Outages("sampled dialogues are", store)
        self._thread.start()

    def put(self, answered: Answered) -> None:
        """Queue a dialogue; it replaces an earlier, shorter state of itself that still waits, but no part of a stream."""
        with self._changed:
            if answered.origin is not None:
                self._parts += 1
            place = answered.dialogue_id, 0 if answered.origin is None else self._parts
            earlier = self._waiting.get(place)
            if earlier is not None:  # a recording that was sent once is named by its digest later
                clips = {**earlier.clips, **answered.clips}
                more = sum(len(clip) for digest, clip in earlier.clips.items() if digest not in answered.clips)
                answered = replace(answered, clips=clips, size=answered.size + more)
            held = self._held + answered.size - (earlier.size if earlier is not None else 0)
            is_full = earlier is None and len(self._waiting) >= QUEUE_DIALOGUES
            if held > self._limit or is_full or self._closing:
                metrics.labelled(metrics.SAMPLE, "dropped").inc()
                return
            self._held = held
            self._waiting[place] = answered
            self._changed.notify()

    def _run(self) -> None:
        next_sweep = 0.0
        while True:
            if time.monotonic() >= next_sweep and not self._closing:
                self._attempt(self._sweep)
                next_sweep = time.monotonic() + _SWEEP_SECONDS
            with self._changed:
                if not self._waiting and not self._closing:
                    self._changed.wait(max(0.0, next_sweep - time.monotonic()))
                if not self._waiting:
                    if self._closing:
                        return
                    continue
                _, answered = self._waiting.popitem(last=False)
                self._held -= answered.size
            self._attempt(lambda answered=answered: self._write(answered), "written")  # type: ignore[misc]

    def _attempt(self, work: Callable[[], object], outcome: str = "") -> None:
        """Do something with the store; each failure is counted, and each success under its outcome, if it has one."""
        if not self._outages.attempt(work):
            metrics.labelled(metrics.SAMPLE, "failed").inc()
        elif outcome:
            metrics.labelled(metrics.SAMPLE, outcome).inc()

    def _sweep(self) -> None:
        if deleted := sweep(self._store, self._clock()):
            logger.info("%d sampled dialogues were deleted after %d days", deleted, self._days)

    def _write(self, answered: Answered) -> None:
        """Write a dialogue: how long it is kept first, so that a sweep finds the rest after a crash, and ``dialogue.json`` last.

        If the dialogue was deleted meanwhile, what was written of it is deleted, too.
        """
        if self._key is None:
            self._key = hashing_key(self._store, create=True)
        assert self._key is not None
        folder = folder_of(self._key, answered.dialogue_id)
        written = self._known(folder, answered)
        marker = path(folder, f"until/{written.keep_until}")
        self._store.write(marker, b"\n")
        for digest, clip in answered.clips.items():
            if digest not in written.clips and len(written.clips) < _MOST_CLIPS:
                self._store.write(path(folder, f"audio/{digest}"), clip)
                written.clips.add(digest)
        parts = self._joined(folder, answered)
        whole = one_after_the_other(parts)
        if whole.vectors:
            self._store.write(path(folder, "embeddings.safetensors"), pack_vectors(whole.vectors))
        dialogue = KeptDialogue(
            began_at=written.began_at,
            updated_at=answered.at,
            keep_until=written.keep_until,
            bundle_digest=answered.bundle_digest,
            labels=answered.labels,
            experts=answered.experts,
            vectors=answered.sent_vectors,
            turns=list(whole.turns),
            streams=[]
            if answered.origin is None
            else [KeptStream(name=part.stream, first=part.first, turns=len(part.turns)) for part in parts],
        )
        self._store.write(path(folder, "dialogue.json"), dialogue.model_dump_json().encode())
        if not self._store.exists(marker):
            self._forget(folder)

    def _joined(self, folder: str, answered: Answered) -> list[Part]:
        """The turns and vectors to write: those of a stream with what the store has of the dialogue.

        A model with other labels or experts cannot go on with a dialogue, whose turns have a probability for each; it begins it anew.
        Vectors of another model are left out.
        """
        origin = answered.origin
        if origin is None:
            return [Part(0, answered.turns(), answered.vectors())]
        part = Part(origin.first, answered.turns(), answered.vectors(), origin.stream.hex())
        kept = read_dialogue(self._store, folder)
        if kept is None or (kept.labels, kept.experts) != (answered.labels, answered.experts):
            return [part]
        vectors = read_vectors(self._store, folder) if kept.bundle_digest == answered.bundle_digest else {}
        return add(parts_of(kept, vectors), part)

    def _known(self, folder: str, answered: Answered) -> _Written:
        """What the store has of a dialogue: as remembered, or as another replica or an earlier process wrote it."""
        written = self._written.pop(folder, None)
        if written is None and (earlier := read_dialogue(self._store, folder)) is not None:
            clips = {key.rpartition("/")[2] for key in self._store.keys(path(folder, "audio"))}
            written = _Written(earlier.began_at, earlier.keep_until, clips)
        if written is not None and (
            written.keep_until < day_of(answered.at)
            or not self._store.exists(path(folder, f"until/{written.keep_until}"))  # it was deleted
        ):
            self._forget(folder)
            written = None
        if written is None:
            written = _Written(answered.at, day_of(answered.at + self._days * DAY_SECONDS))
        self._written[folder] = written
        while len(self._written) > _REMEMBERED:
            self._written.popitem(last=False)
        return written

    def _forget(self, folder: str) -> None:
        """Delete what is left of a dialogue that was deleted, or whose time is over."""
        self._written.pop(folder, None)
        self._store.delete(f"{DIALOGUES}/{folder}")
