"""Utterances to vectors, with those of utterances seen before kept at hand, for many requests at once.

In a live conversation a client resends the dialogue as it grows. An utterance's vector depends on the encoder and on what the
encoder is fed alone, so it is kept under the digest of both, and turn n + 1 costs one utterance. What is not at hand is
prepared in threads and embedded in batches by length, all requests of a batch together. A request whose audio cannot be read
fails alone.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

import numpy as np

from mistere.model.encoders.preparation import prepared
from mistere.model.inference import AudioDecodeError, AudioTooLongError
from mistere.predictor import metrics
from mistere.predictor.audio.clip import check_clip
from mistere.predictor.errors import RequestError, audio_too_long, over_limit, unknown_digests, unsupported_audio
from mistere.predictor.protocol.codec import RequestTurn
from mistere.predictor.settings import Limits

if TYPE_CHECKING:
    from mistere.model.encoders.families.family import Features
    from mistere.model.inference import EmotionModel

Embedded = list[dict[str, np.ndarray]]
"""A request's dialogues, each per modality ``[n, d]`` with a NaN row where an utterance lacks it."""


class VectorStore:
    """Vectors by key, the least recently used dropped first.

    Args:
        capacity: bytes held at most, vectors and keys; 0 holds nothing.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._size = 0
        self._vectors: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: bytes) -> np.ndarray | None:
        """The vector under a key, if it is still held."""
        with self._lock:
            vector = self._vectors.get(key)
            if vector is not None:
                self._vectors.move_to_end(key)
            return vector

    def put(self, key: bytes, vector: np.ndarray) -> None:
        """Remember a vector (a copy, so that it keeps no batch alive)."""
        cost = vector.nbytes + len(key)
        if cost > self._capacity:
            return
        with self._lock:
            if key not in self._vectors:
                self._vectors[key] = vector.copy()
                self._size += cost
            self._vectors.move_to_end(key)
            while self._size > self._capacity:
                dropped_key, dropped = self._vectors.popitem(last=False)
                self._size -= dropped.nbytes + len(dropped_key)


@dataclass(frozen=True)
class _Task:
    """One utterance of one modality that has to be computed."""

    modality: str
    dialogue: Sequence[RequestTurn]
    index: int
    key: bytes


class CachedEncoder:
    """Encodes the utterances of several requests.

    Args:
        model: whose encoders.
        store: of the vectors.
        limits: seconds of one utterance's audio after decoding, and of a request's.
    """

    def __init__(self, model: EmotionModel, store: VectorStore, limits: Limits) -> None:
        self._model, self._store = model, store
        self._max_seconds, self._most_seconds = limits.utterance_seconds, limits.request_seconds

    def holds_speech(self, audio_digest: str) -> bool:
        """Whether the speech vector of a clip is at hand, so that the clip itself is not needed."""
        digest = self._model.encoder_digests.get("speech", "")
        return self._store.get(_key(digest, "speech", bytes.fromhex(audio_digest))) is not None

    def encode(self, requests: Sequence[Sequence[Sequence[RequestTurn]]]) -> list[Embedded | Exception]:
        """Vectors of each request's dialogues, or why that request cannot be answered."""
        found: dict[bytes, np.ndarray] = {}
        tasks: dict[bytes, _Task] = {}
        failures: dict[bytes, Exception] = {}
        places: list[list[dict[str, list[bytes | None]]] | RequestError] = []
        for dialogues in requests:
            new: dict[bytes, _Task] = {}
            keys = [self._look_up(dialogue, found, tasks, new) for dialogue in dialogues]
            too_much = self._too_much(new.values(), failures)
            places.append(too_much or keys)
            if too_much is None:
                tasks |= new
        metrics.labelled(metrics.CACHED, "hit").inc(len(found))
        self._compute([task for key, task in tasks.items() if key not in failures], found, failures)
        metrics.labelled(metrics.CACHED, "miss").inc(len(tasks))
        return [
            place
            if isinstance(place, RequestError)
            else self._refusal(place, failures) or [self._matrices(keys, found) for keys in place]
            for place in places
        ]

    def _too_much(self, tasks: Iterable[_Task], failures: dict[bytes, Exception]) -> RequestError | None:
        """A refusal where a request's new audio is longer in all than allowed, by its headers: nothing is decoded yet.

        A clip whose header is refused goes to ``failures``, and is told by the utterance.
        """
        seconds = 0.0
        for task in tasks:
            clip = task.dialogue[task.index].audio
            if task.modality == "speech" and clip is not None:
                try:
                    seconds += min(check_clip(clip, task.index), self._max_seconds)
                except RequestError as error:
                    failures[task.key] = error
        if seconds <= self._most_seconds:
            return None
        return over_limit(f"A request may hold {self._most_seconds:g} seconds of audio that was not sent before.")

    def _refusal(
        self, dialogues: Sequence[dict[str, list[bytes | None]]], failures: dict[bytes, Exception]
    ) -> RequestError | None:
        """What a request is told whose audio cannot be read; its utterances are counted as it sent them."""
        for keys in dialogues if failures else ():
            for index, key in enumerate(keys.get("speech", ())):
                if key is not None and (error := failures.get(key)) is not None:
                    if isinstance(error, AudioTooLongError):
                        return audio_too_long(index, self._max_seconds)
                    gone = isinstance(error, RequestError) and error.code == HTTPStatus.CONFLICT
                    return error if isinstance(error, RequestError) and gone else unsupported_audio(index)
        return None

    def _look_up(
        self,
        dialogue: Sequence[RequestTurn],
        found: dict[bytes, np.ndarray],
        tasks: Mapping[bytes, _Task],
        new: dict[bytes, _Task],
    ) -> dict[str, list[bytes | None]]:
        """The keys of a dialogue's utterances by modality; what is at hand goes to ``found``, what nobody asked for
        yet to ``new``.
        """
        keys: dict[str, list[bytes | None]] = {}
        for modality, digest in self._model.encoder_digests.items():
            keys[modality] = []
            for index, turn in enumerate(dialogue):
                content = self._content(modality, dialogue, index, turn)
                key = None if content is None else _key(digest, modality, content)
                keys[modality].append(key)
                if key is None or key in found or key in tasks or key in new:
                    continue
                vector = self._store.get(key)
                if vector is None:
                    new[key] = _Task(modality, dialogue, index, key)
                else:
                    found[key] = vector
        return keys

    def _content(self, modality: str, dialogue: Sequence[RequestTurn], index: int, turn: RequestTurn) -> bytes | None:
        """Digest of what an encoder is fed for an utterance; None where the utterance lacks the modality."""
        if modality == "speech":
            return bytes.fromhex(turn.clip_digest) if turn.clip_digest else None
        if not turn.text or not turn.text.strip():
            return None
        digest = hashlib.sha256(turn.text.encode())
        for earlier in self._model.context(modality, dialogue, index):
            digest.update(b"\\0" + hashlib.sha256(earlier.encode()).digest())
        return digest.digest()

    def _compute(self, tasks: list[_Task], found: dict[bytes, np.ndarray], failures: dict[bytes, Exception]) -> None:
        """Prepare and embed to ``found``; what cannot be read is told in ``failures``, by its key."""
        ready: dict[str, list[tuple[bytes, Features]]] = {}
        for task, features in zip(tasks, prepared(self._prepare, tasks), strict=True):
            if isinstance(features, Exception):
                failures[task.key] = features
            elif features is not None:
                ready.setdefault(task.modality, []).append((task.key, features))
        for modality, pairs in ready.items():
            vectors = self._model.vectors(modality, [features for _, features in pairs])
            for (key, _), vector in zip(pairs, vectors, strict=True):
                found[key] = vector
                self._store.put(key, vector)

    def _prepare(self, task: _Task) -> Features | Exception | None:
        turn = task.dialogue[task.index]
        try:
            if task.modality == "speech" and turn.audio is None:  # named by digest, and dropped since it was read
                raise unknown_digests({task.index: turn.audio_digest or ""})
            return self._model.features(task.modality, task.dialogue, task.index, self._max_seconds)
        except (AudioDecodeError, AudioTooLongError, RequestError) as error:
            return error

    def _matrices(self, keys: dict[str, list[bytes | None]], found: dict[bytes, np.ndarray]) -> dict[str, np.ndarray]:
        matrices = {}
        for modality, row_keys in keys.items():
            matrix = np.full((len(row_keys), self._model.dimensions[modality]), np.nan, dtype=np.float32)
            for row, key in enumerate(row_keys):
                if key is not None and key in found:
                    matrix[row] = found[key]
            matrices[modality] = matrix
        return matrices


def _key(encoder_digest: str, modality: str, content: bytes) -> bytes:
    return hashlib.sha256(f"{modality}:{encoder_digest}:".encode() + content).digest()
