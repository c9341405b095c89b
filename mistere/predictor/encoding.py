"""Encode the utterances of a batch of requests, with a cache of vectors.

In a live conversation a client resends the dialogue as it grows. The vector of an utterance depends only on the encoder and its
input, so vectors are cached under the digest of both, and turn n + 1 costs one utterance. The missing vectors of all requests in
a batch are prepared in threads and computed together, in batches by length. A request with unreadable audio fails alone.
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
"""The dialogues of a request: modality → ``[n, d]``, with a NaN row for an utterance without that modality."""


class VectorStore:
    """A cache of vectors that evicts the least recently used.

    Args:
        capacity: size of all vectors and keys, bytes; 0 disables the cache.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._size = 0
        self._vectors: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: bytes) -> np.ndarray | None:
        """The vector of a key; None if it is not cached."""
        with self._lock:
            vector = self._vectors.get(key)
            if vector is not None:
                self._vectors.move_to_end(key)
            return vector

    def put(self, key: bytes, vector: np.ndarray) -> None:
        """Cache a copy of a vector; the vector itself may be a view that keeps a whole batch in memory."""
        cost = vector.nbytes + len(key)
        if cost > self._capacity:
            return
        with self._lock:
            if key not in self._vectors:
                self._vectors[key] = vector.copy()
                self._size += cost
            self._vectors.move_to_end(key)
            while self._size > self._capacity:
                evicted_key, evicted = self._vectors.popitem(last=False)
                self._size -= evicted.nbytes + len(evicted_key)


@dataclass(frozen=True)
class _Task:
    """One utterance to encode in one modality."""

    modality: str
    dialogue: Sequence[RequestTurn]
    index: int
    key: bytes


class CachedEncoder:
    """Encodes the utterances of several requests.

    Args:
        model: the model whose encoders are used.
        store: the cache.
        limits: limits on the seconds of audio of an utterance and of a request.
    """

    def __init__(self, model: EmotionModel, store: VectorStore, limits: Limits) -> None:
        self._model, self._store = model, store
        self._utterance_seconds, self._request_seconds = limits.utterance_seconds, limits.request_seconds

    def holds_speech(self, audio_digest: str) -> bool:
        """Whether the speech vector of a clip is cached, so that the clip itself is not needed."""
        digest = self._model.encoder_digests.get("speech", "")
        return self._store.get(_key(digest, "speech", bytes.fromhex(audio_digest))) is not None

    def encode(self, requests: Sequence[Sequence[Sequence[RequestTurn]]]) -> list[Embedded | Exception]:
        """Encode requests.

        Returns:
            For each request the vectors of its dialogues, or the error to answer it with.
        """
        vectors: dict[bytes, np.ndarray] = {}
        tasks: dict[bytes, _Task] = {}
        failures: dict[bytes, Exception] = {}
        looked_up: list[list[dict[str, list[bytes | None]]] | RequestError] = []
        for dialogues in requests:
            new: dict[bytes, _Task] = {}
            keys = [self._look_up(dialogue, vectors, tasks, new) for dialogue in dialogues]
            excess = self._check_duration(new.values(), failures)
            looked_up.append(excess or keys)
            if excess is None:
                tasks |= new
        metrics.labelled(metrics.CACHED, "hit").inc(len(vectors))
        self._compute([task for key, task in tasks.items() if key not in failures], vectors, failures)
        metrics.labelled(metrics.CACHED, "miss").inc(len(tasks))
        return [
            entry
            if isinstance(entry, RequestError)
            else self._refusal(entry, failures) or [self._matrices(keys, vectors) for keys in entry]
            for entry in looked_up
        ]

    def _check_duration(self, tasks: Iterable[_Task], failures: dict[bytes, Exception]) -> RequestError | None:
        """Check the total duration of a request's new audio by the clips' headers, before anything is decoded.

        A clip with an invalid header goes to ``failures``, which later names its utterance.

        Returns:
            The error, if the audio is too long.
        """
        seconds = 0.0
        for task in tasks:
            clip = task.dialogue[task.index].audio
            if task.modality == "speech" and clip is not None:
                try:
                    seconds += min(check_clip(clip, task.index), self._utterance_seconds)
                except RequestError as error:
                    failures[task.key] = error
        if seconds <= self._request_seconds:
            return None
        return over_limit(f"A request may hold {self._request_seconds:g} seconds of audio that was not sent before.")

    def _refusal(
        self, dialogues: Sequence[dict[str, list[bytes | None]]], failures: dict[bytes, Exception]
    ) -> RequestError | None:
        """The error of a request with unreadable audio, with the utterance's index in that request; None if there is none."""
        for keys in dialogues if failures else ():
            for index, key in enumerate(keys.get("speech", ())):
                if key is not None and (error := failures.get(key)) is not None:
                    if isinstance(error, AudioTooLongError):
                        return audio_too_long(index, self._utterance_seconds)
                    evicted = isinstance(error, RequestError) and error.code == HTTPStatus.CONFLICT
                    return error if isinstance(error, RequestError) and evicted else unsupported_audio(index)
        return None

    def _look_up(
        self,
        dialogue: Sequence[RequestTurn],
        vectors: dict[bytes, np.ndarray],
        tasks: Mapping[bytes, _Task],
        new: dict[bytes, _Task],
    ) -> dict[str, list[bytes | None]]:
        """Look up the utterances of a dialogue.

        Cached vectors are added to ``vectors``; utterances that neither ``tasks`` nor ``new`` holds yet are added to ``new``.

        Returns:
            Modality → key per utterance; None for an utterance without that modality.
        """
        keys: dict[str, list[bytes | None]] = {}
        for modality, digest in self._model.encoder_digests.items():
            keys[modality] = []
            for index, turn in enumerate(dialogue):
                content = self._content(modality, dialogue, index, turn)
                key = None if content is None else _key(digest, modality, content)
                keys[modality].append(key)
                if key is None or key in vectors or key in tasks or key in new:
                    continue
                vector = self._store.get(key)
                if vector is None:
                    new[key] = _Task(modality, dialogue, index, key)
                else:
                    vectors[key] = vector
        return keys

    def _content(self, modality: str, dialogue: Sequence[RequestTurn], index: int, turn: RequestTurn) -> bytes | None:
        """Digest of the encoder's input for an utterance; None if the utterance lacks the modality."""
        if modality == "speech":
            return bytes.fromhex(turn.clip_digest) if turn.clip_digest else None
        if not turn.text or not turn.text.strip():
            return None
        digest = hashlib.sha256(turn.text.encode())
        for earlier in self._model.context(modality, dialogue, index):
            digest.update(b"\\0" + hashlib.sha256(earlier.encode()).digest())
        return digest.digest()

    def _compute(self, tasks: list[_Task], vectors: dict[bytes, np.ndarray], failures: dict[bytes, Exception]) -> None:
        """Prepare and encode utterances into ``vectors``; errors of unreadable ones go to ``failures``, by key."""
        ready: dict[str, list[tuple[bytes, Features]]] = {}
        for task, features in zip(tasks, prepared(self._prepare, tasks), strict=True):
            if isinstance(features, Exception):
                failures[task.key] = features
            elif features is not None:
                ready.setdefault(task.modality, []).append((task.key, features))
        for modality, pairs in ready.items():
            computed = self._model.vectors(modality, [features for _, features in pairs])
            for (key, _), vector in zip(pairs, computed, strict=True):
                vectors[key] = vector
                self._store.put(key, vector)

    def _prepare(self, task: _Task) -> Features | Exception | None:
        turn = task.dialogue[task.index]
        try:
            if task.modality == "speech" and turn.audio is None:  # sent as a digest whose clip was evicted meanwhile
                raise unknown_digests({task.index: turn.audio_digest or ""})
            return self._model.features(task.modality, task.dialogue, task.index, self._utterance_seconds)
        except (AudioDecodeError, AudioTooLongError, RequestError) as error:
            return error

    def _matrices(self, keys: dict[str, list[bytes | None]], vectors: dict[bytes, np.ndarray]) -> dict[str, np.ndarray]:
        matrices = {}
        for modality, row_keys in keys.items():
            matrix = np.full((len(row_keys), self._model.dimensions[modality]), np.nan, dtype=np.float32)
            for row, key in enumerate(row_keys):
                if key is not None and key in vectors:
                    matrix[row] = vectors[key]
            matrices[modality] = matrix
        return matrices


def _key(encoder_digest: str, modality: str, content: bytes) -> bytes:
    return hashlib.sha256(f"{modality}:{encoder_digest}:".encode() + content).digest()
