"""The queue of transcriptions: they cost many times an encoded utterance, so they never wait in the batches of other requests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from mistere.predictor import metrics
from mistere.predictor.scheduling.pace import Pace
from mistere.predictor.scheduling.slices import SliceQueue
from mistere.predictor.warm_up import one_second

if TYPE_CHECKING:
    from mistere.model.transcription.transcriber import Transcriber
    from mistere.predictor.encoding.transcription import CachedTranscriber, TranscriptTask
    from mistere.predictor.protocol.codec import DialogueRequest
    from mistere.predictor.settings import Limits

_PACE: Final = 0.03
"""Assumed seconds of computing per second of a window of the transcription; a tiny Whisper on two cores."""


class TranscriptionQueue:
    """Transcribes the utterances of several requests, if the model has a transcriber.

    Args:
        limits: limits on the audio of an utterance and of a request, and on what may wait.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._transcriber: CachedTranscriber | None = None
        self._queue: SliceQueue[TranscriptTask] = SliceQueue(self._compute, Pace(_PACE), limits.waiting_seconds)

    @property
    def depth(self) -> int:
        """Requests that wait for a transcript."""
        return self._queue.depth

    def add(self, transcriber: Transcriber) -> None:
        """Transcribe with a model from now on, and warm it up."""
        from mistere.model.dialogue_model import transcript
        from mistere.predictor.encoding.transcription import CachedTranscriber

        self._queue.warm_up(lambda: transcript(transcriber, one_second()))
        self._transcriber = CachedTranscriber(transcriber, self._limits)

    async def completed(self, dialogues: list[DialogueRequest]) -> list[DialogueRequest]:
        """Add the transcripts of utterances that have audio and no text, if the client wants it.

        Args:
            dialogues: the dialogues of a request.

        Raises:
            RequestError: as :meth:`CachedTranscriber.plan`, or too much waits already.
        """
        transcriber = self._transcriber
        if transcriber is None or not dialogues[0].transcribe or dialogues[0].embeddings:
            return dialogues
        from mistere.predictor.encoding.transcription import completed

        tasks = await asyncio.to_thread(transcriber.plan, dialogues)
        if missing := [task for task in tasks.values() if task.text is None]:
            with metrics.phase("transcribe"):
                await self._queue.run(missing)
        return completed(dialogues, tasks) if tasks else dialogues

    def close(self) -> None:
        """Finish what is being transcribed, and drop what waits."""
        self._queue.close()

    def _compute(self, tasks: Sequence[TranscriptTask]) -> None:
        assert self._transcriber is not None
        self._transcriber.compute(tasks)
