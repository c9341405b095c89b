"""Transcribe the utterances of requests that have audio and no text, with a cache of transcripts by the audio's digest.

A transcript costs as much as many encoded utterances (Whisper reads windows of 30 s, however short the utterance), so a request's
transcripts are priced by their windows and computed one after another in a queue of their own, before anything is encoded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from mistere.data.text_repair import is_blank
from mistere.model.dialogue_model import transcript
from mistere.model.transcription.transcriber import Transcriber
from mistere.predictor import metrics
from mistere.predictor.audio.clip import read_header
from mistere.predictor.errors import over_limit, unknown_digests
from mistere.predictor.protocol.codec import DialogueRequest, RequestTurn
from mistere.predictor.settings import Limits
from mistere.predictor.sized_cache import SizedCache

_CACHE_BYTES: Final = 16 << 20
"""Room for the transcripts of about 100,000 utterances."""


@dataclass(eq=False)
class TranscriptTask:
    """A recording to transcribe.

    Attributes:
        digest: of its bytes.
        audio: the encoded file.
        price: what it costs, seconds of audio.
        text: the transcript; None until it is computed.
    """

    digest: str
    audio: bytes
    price: float
    text: str | None = None

    @property
    def is_needless(self) -> bool:
        """Whether it need not be computed; see :class:`mistere.predictor.scheduling.slices.Priced`."""
        return False


class CachedTranscriber:
    """Transcribes the utterances of several requests.

    Args:
        transcriber: the model.
        limits: limits on the audio of an utterance and of a request.
    """

    def __init__(self, transcriber: Transcriber, limits: Limits) -> None:
        self._transcriber, self._limits = transcriber, limits
        self._store: SizedCache[str, str] = SizedCache(_CACHE_BYTES)

    def plan(self, dialogues: Sequence[DialogueRequest]) -> dict[str, TranscriptTask]:
        """The recordings of a request that need a transcript, by digest; those known before have it.

        Raises:
            RequestError: a header is invalid, there is more new audio than a request may hold, or a recording is only named and its
                transcript is not known.
        """
        tasks: dict[str, TranscriptTask] = {}
        unknown: dict[int, str] = {}
        total = 0.0
        for dialogue in dialogues:
            for index, turn in enumerate(dialogue.turns):
                if not _needs_transcript(turn) or turn.clip_digest in tasks:
                    continue
                text = self._store.get(turn.clip_digest)
                if text is not None:
                    tasks[turn.clip_digest] = TranscriptTask(turn.clip_digest, b"", 0.0, text)
                elif turn.audio is None:
                    unknown[index] = turn.clip_digest
                else:
                    seconds = min(read_header(turn.audio, index).seconds, self._limits.utterance_seconds)
                    total += seconds
                    tasks[turn.clip_digest] = TranscriptTask(turn.clip_digest, turn.audio, self._price(seconds))
        if unknown:
            raise unknown_digests(unknown)
        if total > self._limits.request_seconds:
            raise over_limit(
                f"A request may hold {self._limits.request_seconds:g} seconds of audio that was not sent before; this one holds "
                f"{total:.0f}: send its first utterances in a request of their own, then the whole dialogue."
            )
        return tasks

    def compute(self, tasks: Sequence[TranscriptTask]) -> None:
        """Transcribe recordings."""
        for task in tasks:
            text = self._store.get(task.digest)  # another request may have sent it meanwhile
            metrics.labelled(metrics.TRANSCRIPTS, "miss" if text is None else "hit").inc()
            if text is None:
                text = transcript(self._transcriber, task.audio, self._limits.utterance_seconds)
                self._store.put(task.digest, text, len(text) + len(task.digest))
            task.text = text

    def _price(self, seconds: float) -> float:
        window = self._transcriber.window_seconds
        return max(1, math.ceil(seconds / window)) * window


def completed(dialogues: Sequence[DialogueRequest], tasks: dict[str, TranscriptTask]) -> list[DialogueRequest]:
    """The dialogues with the transcripts as texts of the utterances that lack one."""
    return [
        replace(
            dialogue,
            turns=[
                replace(turn, text=tasks[turn.clip_digest].text or None)
                if _needs_transcript(turn) and turn.clip_digest in tasks
                else turn
                for turn in dialogue.turns
            ],
        )
        for dialogue in dialogues
    ]


def _needs_transcript(turn: RequestTurn) -> bool:
    return bool(turn.clip_digest) and is_blank(turn.text or "")
