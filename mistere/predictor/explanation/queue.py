"""Admit explanations as work with a price, and compute them in slices beside the other requests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from mistere.predictor import metrics
from mistere.predictor.explanation.masking import (
    ExplainedDialogue,
    MaskedPass,
    check_work,
    compute,
)
from mistere.predictor.scheduling.pace import Pace
from mistere.predictor.scheduling.slices import SliceQueue
from mistere.serving import protocol

if TYPE_CHECKING:
    from mistere.model.dialogue_model import EmotionModel
    from mistere.model.dialogue_prediction import DialoguePrediction
    from mistere.predictor.encoding.plan import EncodingPlan
    from mistere.predictor.protocol.codec import DialogueRequest
    from mistere.serving.explanation import Explanation

_LEAST_PRICE: Final = 0.0025
_WEIGHTS_PER_SECOND: Final = 3e8
"""The price of predicting an utterance, in seconds of audio: the mixture's weights divided by the second, at least the first. A small
encoder on a core reads a second of audio while a mixture of so many weights predicts an utterance. It is the estimate for the first
explanation; from then on the measured pace decides what may wait."""


class ExplanationQueue:
    """Explains the answers of several requests.

    Args:
        loaded: the model.
        max_seconds: the longest computing time that may wait, as this machine is measured now; one request may always wait.
    """

    def __init__(self, loaded: Callable[[], EmotionModel], max_seconds: Callable[[], float]) -> None:
        self._loaded, self._max_seconds, self._pace = loaded, max_seconds, Pace()
        self._queue: SliceQueue[MaskedPass] = SliceQueue(self._compute, self._pace, 0.0)

    @property
    def depth(self) -> int:
        """Requests that are not explained yet."""
        return self._queue.depth

    def check(self, dialogues: Sequence[DialogueRequest], plan: EncodingPlan | None) -> None:
        """Check the work of a request before anything of it is encoded.

        Args:
            dialogues: its dialogues.
            plan: which modalities their utterances have; None for embeddings.

        Raises:
            RequestError: it is more than the explanation of a request may take.
        """
        tables = [_present(one.embeddings) for one in dialogues] if plan is None else list(map(_planned, plan.keys))
        check_work(tables, [dialogue.context for dialogue in dialogues])

    async def explain(
        self,
        dialogues: Sequence[DialogueRequest],
        embedded: Sequence[Mapping[str, np.ndarray]],
        predictions: Sequence[DialoguePrediction],
    ) -> list[Explanation]:
        """Explain the predictions of a request.

        Args:
            dialogues: its dialogues.
            embedded: their embeddings.
            predictions: their predictions.

        Raises:
            RequestError: too much waits already.
        """
        model = self._loaded()
        row = max(_LEAST_PRICE, model.mixture_weights / _WEIGHTS_PER_SECOND)
        modalities = protocol.in_order(model.dimensions)
        explained = [
            ExplainedDialogue(modalities, vectors, prediction, dialogue.context)
            for dialogue, vectors, prediction in zip(dialogues, embedded, predictions, strict=True)
        ]
        passes = [one for dialogue in explained for one in dialogue.passes()]
        for one in passes:
            one.price = row * len(one.dialogue)
        self._queue.max_price = self._pace.price_within(self._max_seconds(), 0.0)
        with metrics.phase("explain"):
            await self._queue.run(passes)
        return await asyncio.to_thread(lambda: [dialogue.explanation() for dialogue in explained])

    def _compute(self, passes: Sequence[MaskedPass]) -> None:
        start = time.perf_counter()
        compute(self._loaded(), passes)
        self._pace.observe(sum(one.price for one in passes), time.perf_counter() - start)

    def close(self) -> None:
        """Finish the running slice and drop the rest."""
        self._queue.close()


def _present(embeddings: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.stack([~np.isnan(rows).any(axis=1) for rows in embeddings.values()], axis=1)


def _planned(keys: Mapping[str, Sequence[bytes | None]]) -> np.ndarray:
    return np.array([[key is not None for key in row] for row in keys.values()]).T
