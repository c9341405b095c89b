"""Chooses the dialogues that are kept, and hands them to the writer."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from mistere.predictor import metrics
from mistere.predictor.protocol.codec import expert_names, predicted_labels
from mistere.predictor.sample.writer import Answered, SampleWriter
from mistere.serving.sample.dialogue import KeptTurn

if TYPE_CHECKING:
    from mistere.model.inference import DialoguePrediction, EmotionModel
    from mistere.predictor.encoding.plan import EncodingPlan
    from mistere.predictor.protocol.codec import DialogueRequest

logger = logging.getLogger("kserve.predictor")

_DIGITS: Final = 6
_RANGE: Final = 1 << 64


def is_sampled(dialogue_id: str, share: float) -> bool:
    """Whether a dialogue belongs to a sample: the same for each of its requests, and in every replica.

    Args:
        dialogue_id: the client's.
        share: of the dialogues, 0 to 1.
    """
    digest = hashlib.sha256(b"mistere sample\0" + dialogue_id.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < share * _RANGE


class Sampler:
    """Keeps dialogues with consent.

    Args:
        model: the served model.
        writer: writes them to the store.
        share: of the dialogues with consent, 0 to 1; with 0 the writer only deletes what is over.
    """

    def __init__(self, model: EmotionModel, writer: SampleWriter, share: float) -> None:
        self.writer = writer
        self._share = share
        self._labels, self._digest = list(model.labels), str(model.bundle.digest)
        self._experts = expert_names(model.experts)

    def wants(self, dialogues: Sequence[DialogueRequest]) -> bool:
        """Whether a request is kept: it has the client's consent, and the dialogue is in the sample."""
        first = dialogues[0]
        return first.consent is True and is_sampled(first.dialogue_id, self._share)

    def keep(
        self,
        asked: DialogueRequest,
        read: DialogueRequest,
        prediction: DialoguePrediction,
        plan: EncodingPlan | None,
    ) -> None:
        """Hand an answered dialogue to the writer. An error is logged, because the answer is right without it.

        Args:
            asked: the dialogue as the client sent it.
            read: as the model read it, with transcripts.
            prediction: the answer, with rows of zeros for turns that are context only.
            plan: what was encoded for it; None for vectors.
        """
        try:
            clips = {turn.clip_digest: turn.audio for turn in asked.turns if turn.audio}
            arrays = asked.embeddings if plan is None else plan.vectors
            size = sum(map(len, clips.values())) + sum(array.nbytes for array in arrays.values())
            answered = Answered(
                dialogue_id=asked.dialogue_id,
                at=time.time(),
                bundle_digest=self._digest,
                labels=self._labels,
                experts=self._experts,
                sent_vectors=plan is None,
                turns=lambda: self._turns(asked, read, prediction),
                clips=clips,
                vectors=lambda: dict(asked.embeddings) if plan is None else _vectors(plan, len(asked)),
                size=size + prediction.expert_probabilities.nbytes + prediction.probabilities.nbytes,
            )
            self.writer.put(answered)
        except Exception:
            metrics.labelled(metrics.SAMPLE, "failed").inc()
            logger.exception("a sampled dialogue was not kept")

    def _turns(self, asked: DialogueRequest, read: DialogueRequest, prediction: DialoguePrediction) -> list[KeptTurn]:
        labels = predicted_labels(prediction, self._labels)
        rows = [
            np.round(values.astype(np.float64), _DIGITS).tolist()
            for values in (prediction.probabilities, prediction.expert_weights, prediction.expert_probabilities)
        ]
        turns = []
        for index, label in enumerate(labels):
            sent = asked.turns[index] if asked.turns else None
            text = sent.text if sent is not None else None
            turns.append(
                KeptTurn(
                    text=text,
                    transcript=read.turns[index].text if sent is not None and not text else None,
                    audio=(sent.clip_digest or None) if sent is not None else None,
                    predicted=bool(label),
                    label=label,
                    probabilities=rows[0][index],
                    expert_weights=rows[1][index],
                    expert_probabilities=rows[2][index],
                    modalities=prediction.modalities[index],
                )
            )
        return turns


def _vectors(plan: EncodingPlan, turns: int) -> dict[str, np.ndarray]:
    """The encoders' vectors of a dialogue in half precision, with NaN for what an utterance lacks."""
    vectors = {}
    for modality, keys in plan.keys[0].items():  # a request with consent has one dialogue
        known = [key for key in keys if key is not None and key in plan.vectors]
        if not known:
            continue
        matrix = np.full((turns, len(plan.vectors[known[0]])), np.nan, np.float16)
        for index, key in enumerate(keys):
            if key is not None and key in plan.vectors:
                matrix[index] = plan.vectors[key]
        vectors[modality] = matrix
    return vectors
