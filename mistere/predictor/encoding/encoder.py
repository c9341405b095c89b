"""Encode the utterances of requests, with a cache of vectors.

In a live conversation a client resends the dialogue as it grows. The vector of an utterance depends only on the encoder and its
input, so vectors are cached under the digest of both, and turn n + 1 costs one utterance. What a request lacks is known, priced and
limited before anything is decoded. The missing vectors of several requests are prepared in threads and computed together, in batches
by length. A request with unreadable audio fails alone.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from mistere.common.modalities import SPEECH, TEXT
from mistere.data.audio import rms_dbfs
from mistere.data.text_repair import is_blank
from mistere.model.dialogue_model import AudioTooLongError, CellDecodeError
from mistere.model.encoders.preparation import overflowing, prepared
from mistere.predictor import metrics
from mistere.predictor.audio.clip import read_header
from mistere.predictor.encoding.plan import EncodingPlan, Task, clip_price, text_price
from mistere.predictor.errors import (
    RequestError,
    audio_too_long,
    no_numbers,
    over_limit,
    unknown_digests,
    unreadable,
    unsupported_audio,
)
from mistere.predictor.protocol.codec import RequestTurn
from mistere.predictor.scheduling.pace import TOKENS_PER_SECOND, Pace
from mistere.predictor.settings import Limits
from mistere.predictor.sized_cache import SizedCache
from mistere.serving.protocol import token_count

if TYPE_CHECKING:
    from mistere.model.dialogue_model import EmotionModel
    from mistere.model.encoders.preparation import Features

_IN_PARTS: Final = "send its first utterances in a request of their own, then the whole dialogue"
Embedded = list[dict[str, np.ndarray]]
"""The dialogues of a request: modality → ``[n, d]``, with a NaN row for an utterance without that modality."""


class _EvictedError(Exception):
    """A recording that was sent as a digest was evicted between reading the request and encoding it."""


class _OverflowError(Exception):
    """An encoder made NaN or infinity of an utterance; a row of NaN would count as a missing modality."""


class CachedEncoder:
    """Encodes the utterances of several requests.

    Args:
        model: the model whose encoders are used.
        limits: limits on the audio of an utterance, on the audio and the text of a request, and on the cache.
        pace: receives how long encoding takes.
    """

    def __init__(self, model: EmotionModel, limits: Limits, pace: Pace) -> None:
        self._model, self._limits, self._pace = model, limits, pace
        self._store: SizedCache[bytes, np.ndarray] = SizedCache(limits.vector_store_bytes)

    def holds_speech(self, audio_digest: str) -> bool:
        """Whether the speech vector of a clip is cached, so that the clip itself is not needed."""
        digest = self._model.encoder_digests.get("speech", "")
        return self._store.get(_key(digest, "speech", bytes.fromhex(audio_digest))) is not None

    def plan(self, dialogues: Sequence[Sequence[RequestTurn]]) -> EncodingPlan:
        """Look up the utterances of a request in the cache, and price the text of those to encode.

        Raises:
            RequestError: there is more new text than a request may hold.
        """
        plan = EncodingPlan()
        for dialogue in dialogues:
            plan.keys.append(self._look_up(dialogue, plan))
        metrics.labelled(metrics.CACHED, "hit").inc(len(plan.vectors))
        tokens = 0
        for task in plan.tasks.values():
            if task.modality == TEXT:
                text = task.turn.text or ""
                tokens += token_count(text)
                texts = [text, *self._model.context("text", task.dialogue, task.index)]
                task.price = text_price(texts, self._model.max_tokens)
            elif task.modality != SPEECH:
                kind, cell = self._model.kind(task.modality), task.turn.others[task.modality]
                cost = kind.tokens(cell, self._model.settings(task.modality))
                tokens += cost
                task.price = cost / TOKENS_PER_SECOND
        limit = self._limits.request_tokens
        if tokens > limit:
            raise over_limit(
                f"A request may hold {limit} tokens of text that was not sent before, four bytes counted as one; this one "
                f"holds {tokens}: {_IN_PARTS}."
            )
        return plan

    def price_clips(self, plan: EncodingPlan) -> None:
        """Price the recordings to encode by their bytes, before anything is decoded: no more than this is decoded later.

        Raises:
            RequestError: there is more new audio than a request may hold, or a header is invalid.
        """
        total = 0.0
        for task in plan.clips:
            try:
                clip = read_header(task.turn.audio or b"", task.index)
            except RequestError as error:
                plan.failures[task.key] = error
                continue
            task.price = clip_price(clip, self._limits.utterance_seconds)
            total += min(clip.seconds, self._limits.utterance_seconds)
        if total > self._limits.request_seconds:
            raise over_limit(
                f"A request may hold {self._limits.request_seconds:g} seconds of audio that was not sent before; this one "
                f"holds {total:.0f}: {_IN_PARTS}."
            )
        if (refusal := self._refusal(plan)) is not None:
            raise refusal

    def compute(self, tasks: Iterable[Task]) -> None:
        """Encode utterances, of one or several requests, into their plans; equal ones are computed once.

        The pace is measured by what the encoders read, not by the prices: a header that claims more than
        follows and a recording that does not decode cost less than their price, and would make the machine look faster than it is.
        """
        by_key: dict[bytes, list[Task]] = {}
        for task in tasks:
            if not task.is_needless:
                by_key.setdefault(task.key, []).append(task)
        vectors: dict[bytes, np.ndarray] = {}
        failures: dict[bytes, Exception] = {}
        missing: list[Task] = []
        for key, equal in by_key.items():
            if (vector := self._store.get(key)) is not None:  # computed for another request meanwhile
                vectors[key] = vector
            else:  # another request may send the recording that this one only names
                missing.append(next((task for task in equal if task.turn.audio is not None), equal[0]))
        start = time.perf_counter()
        encoded = self._encode(missing, vectors, failures)
        self._pace.observe(encoded, time.perf_counter() - start)
        metrics.labelled(metrics.CACHED, "miss").inc(len(missing))
        for key in (task.key for task in missing):
            if key in vectors and not all(task.plan.is_transient for task in by_key[key]):
                # A copy, because the vector may be a view that keeps a whole batch in memory.
                self._store.put(key, vectors[key].copy(), vectors[key].nbytes + len(key))
        for key, equal in by_key.items():
            for task in equal:
                if key in vectors:
                    task.plan.vectors[key] = vectors[key]
                elif key in failures:
                    task.plan.failures[key] = failures[key]

    def embeddings(self, plan: EncodingPlan) -> Embedded | Exception:
        """The vectors of a request's dialogues, or the error to answer it with."""
        return self._refusal(plan) or [self._matrices(keys, plan.vectors) for keys in plan.keys]

    def _refusal(self, plan: EncodingPlan) -> RequestError | None:
        """The error of a request with unreadable or overflowing utterances, with the utterance's index in that request; None if there is none."""
        for keys in plan.keys if plan.failures else ():
            for modality in keys.keys() - {SPEECH}:
                for index, key in enumerate(keys[modality]):
                    if key is not None and (error := plan.failures.get(key)) is not None:
                        if isinstance(error, _OverflowError):
                            return no_numbers(index, modality)
                        return unreadable(index, modality, getattr(error, "reason", str(error)))
            for index, key in enumerate(keys.get(SPEECH, ())):
                if key is not None and (error := plan.failures.get(key)) is not None:
                    if isinstance(error, AudioTooLongError):
                        return audio_too_long(index, self._limits.utterance_seconds)
                    if isinstance(error, _OverflowError):
                        return no_numbers(index, SPEECH)
                    if isinstance(error, _EvictedError):
                        return unknown_digests({index: plan.tasks[key].turn.clip_digest})
                    return unsupported_audio(index)
        return None

    def _look_up(self, dialogue: Sequence[RequestTurn], plan: EncodingPlan) -> dict[str, list[bytes | None]]:
        """Look up the utterances of a dialogue: cached vectors and tasks are added to the plan.

        Returns:
            For each modality the key of each utterance; None for one without that modality.
        """
        keys: dict[str, list[bytes | None]] = {}
        for modality, digest in self._model.encoder_digests.items():
            keys[modality] = []
            for index, turn in enumerate(dialogue):
                content = self._content(modality, dialogue, index, turn)
                key = None if content is None else _key(digest, modality, content)
                keys[modality].append(key)
                if key is None or key in plan.vectors or key in plan.tasks:
                    continue
                vector = self._store.get(key)
                if vector is None:
                    plan.tasks[key] = Task(plan, modality, dialogue, index, key)
                else:
                    plan.vectors[key] = vector
        return keys

    def _content(self, modality: str, dialogue: Sequence[RequestTurn], index: int, turn: RequestTurn) -> bytes | None:
        """Digest of the encoder's input for an utterance; None if the utterance lacks the modality."""
        if modality == SPEECH:
            return bytes.fromhex(turn.clip_digest) if turn.clip_digest else None
        if modality != TEXT:
            cell = turn.others.get(modality)
            return None if cell is None else self._model.kind(modality).digest(cell)
        if turn.text is None or is_blank(turn.text):
            return None
        digest = hashlib.sha256(turn.text.encode())
        for earlier in self._model.context(modality, dialogue, index):
            digest.update(b"\0" + hashlib.sha256(earlier.encode()).digest())
        return digest.digest()

    def _encode(
        self, tasks: Sequence[Task], vectors: dict[bytes, np.ndarray], failures: dict[bytes, Exception]
    ) -> float:
        """Prepare and encode utterances into ``vectors``; errors of unreadable ones go to ``failures``, by key.

        Returns:
            What was encoded, seconds of audio.
        """
        encoded = 0.0
        ready: dict[str, list[tuple[bytes, Features]]] = {}
        for task, features in zip(tasks, prepared(self._prepare, tasks), strict=True):
            if isinstance(features, Exception):
                failures[task.key] = features
            elif features is not None:
                ready.setdefault(task.modality, []).append((task.key, features))
                length = self._model.length(task.modality, features)
                encoded += length if task.modality == SPEECH else length / TOKENS_PER_SECOND
        every = self._model.vectors({name: [features for _, features in pairs] for name, pairs in ready.items()})
        for modality, computed in every.items():
            pairs = ready[modality]
            vectors.update((key, vector) for (key, _), vector in zip(pairs, computed, strict=True))
            for row in overflowing(computed, [True] * len(pairs)):
                key = pairs[row][0]
                failures[key] = _OverflowError()
                del vectors[key]
        return encoded

    def _prepare(self, task: Task) -> Features | Exception | None:
        if task.modality == SPEECH and task.turn.audio is None:
            return _EvictedError()

        def measure(wave: np.ndarray, rate: int) -> None:
            task.sound = len(wave) / rate, rms_dbfs(wave)

        heard = {"on_samples": measure} if task.modality == SPEECH else {}
        seconds = self._limits.utterance_seconds
        try:
            return self._model.features(task.modality, task.dialogue, task.index, seconds, **heard)
        except (CellDecodeError, AudioTooLongError) as error:
            # The traceback's frames, and those of its causes, keep the decoded samples alive: 90 MB for a recording of 100 KB.
            error.__cause__ = error.__context__ = None
            return error.with_traceback(None)

    def _matrices(self, keys: dict[str, list[bytes | None]], vectors: dict[bytes, np.ndarray]) -> dict[str, np.ndarray]:
        matrices = {}
        for modality, row_keys in keys.items():
            matrix = np.full((len(row_keys), self._model.dimensions[modality]), np.nan, dtype=np.float32)
            for row, key in enumerate(row_keys):
                if key is not None and key in vectors:
                    matrix[row] = vectors[key]
            matrices[modality] = matrix
        return matrices


def _key(digest: str, modality: str, content: bytes) -> bytes:
    return hashlib.sha256(f"{modality}:{digest}:".encode() + content).digest()
