"""Chooses the dialogues that are kept, and hands them to the writer."""

from __future__ import annotations

import hashlib
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from mistere.predictor import metrics
from mistere.predictor.protocol.codec import expert_names, predicted_labels
from mistere.predictor.sample.writer import Answered, SampleWriter
from mistere.serving.sample.dialogue import KeptTurn

if TYPE_CHECKING:
    from mistere.model.dialogue_model import EmotionModel
    from mistere.model.dialogue_prediction import DialoguePrediction
    from mistere.predictor.encoding.plan import EncodingPlan
    from mistere.predictor.protocol.codec import DialogueRequest

logger = logging.getLogger("kserve.predictor")

_DIGITS: Final = 6
_RANGE: Final = 1 << 64
_TURN_BYTES: Final = 512
"""What a turn that waits takes besides its contents: a digest, references, the headers of objects."""


def is_sampled(dialogue_id: str, share: float) -> bool:
    """Whether a dialogue belongs to a sample: the same for each of its requests, and in every replica.

    Args:
        dialogue_id: the client's.
        share: of the dialogues, 0 to 1.
    """
    digest = hashlib.sha256(b"mistere sample\0" + dialogue_id.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < share * _RANGE


@dataclass(frozen=True)
class _Said:
    """What is kept of the turns and of the answer; the turns are made of it in the writer's thread.

    Attributes:
        texts: of each turn, as sent; empty for vectors, as are transcripts and digests.
        transcripts: the model's own, where no text was sent.
        digests: of the recordings; empty for none.
        predicted: the labels; empty for context.
        modalities: that were read.
        rows: probabilities, weights and probabilities of the experts.
    """

    texts: list[str | None]
    transcripts: list[str | None]
    digests: list[str]
    predicted: list[str]
    modalities: list[str]
    rows: list[np.ndarray]

    @property
    def size(self) -> int:
        """Bytes in memory, with what each turn takes besides."""
        words = sum(sys.getsizeof(text) for text in (*self.texts, *self.transcripts) if text is not None)
        return words + sum(values.nbytes for values in self.rows) + _TURN_BYTES * len(self.predicted)

    def turns(self) -> list[KeptTurn]:
        """The turns."""
        probabilities, weights, of_experts = (values.tolist() for values in self.rows)
        turns = []
        for index, label in enumerate(self.predicted):
            sent = bool(self.texts)
            turns.append(
                KeptTurn(
                    text=self.texts[index] if sent else None,
                    transcript=self.transcripts[index] if sent else None,
                    audio=(self.digests[index] or None) if sent else None,
                    predicted=bool(label),
                    label=label,
                    probabilities=probabilities[index],
                    expert_weights=weights[index],
                    expert_probabilities=of_experts[index],
                    modalities=self.modalities[index],
                )
            )
        return turns


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
        """Hand an answered dialogue to the writer, without the request, whose images would wait with it.

        An error is logged, because the answer is right without it.

        Args:
            asked: the dialogue as the client sent it.
            read: as the model read it, with transcripts.
            prediction: the answer, with rows of zeros for turns that are context only.
            plan: what was encoded for it; None for vectors.
        """
        try:
            clips = {turn.clip_digest: turn.audio for turn in asked.turns if turn.audio}
            vectors: Callable[[], Mapping[str, np.ndarray]]
            if plan is None:
                arrays, vectors = list(asked.embeddings.values()), partial(dict, asked.embeddings)
            else:  # a request with consent has one dialogue
                arrays, vectors = list(plan.vectors.values()), partial(_vectors, plan.keys[0], plan.vectors, len(asked))
            said = _Said(
                texts=[turn.text for turn in asked.turns],
                transcripts=[
                    None if turn.text else own.text for turn, own in zip(asked.turns, read.turns, strict=True)
                ],
                digests=[turn.clip_digest for turn in asked.turns],
                predicted=predicted_labels(prediction, self._labels),
                modalities=prediction.modalities,
                rows=[
                    np.round(values.astype(np.float64), _DIGITS)
                    for values in (prediction.probabilities, prediction.expert_weights, prediction.expert_probabilities)
                ],
            )
            sizes = (*map(len, clips.values()), *(array.nbytes for array in arrays), said.size)
            answered = Answered(
                dialogue_id=asked.dialogue_id,
                at=time.time(),
                bundle_digest=self._digest,
                labels=self._labels,
                experts=self._experts,
                sent_vectors=plan is None,
                turns=said.turns,
                clips=clips,
                vectors=vectors,
                size=sum(sizes),
                origin=asked.origin,
            )
            self.writer.put(answered)
        except Exception:
            metrics.labelled(metrics.SAMPLE, "failed").inc()
            logger.exception("a sampled dialogue was not kept")


def _vectors(
    keys: Mapping[str, Sequence[bytes | None]], computed: Mapping[bytes, np.ndarray], turns: int
) -> dict[str, np.ndarray]:
    """The encoders' vectors of a dialogue in half precision, with NaN for what an utterance lacks."""
    vectors = {}
    for modality, of_turns in keys.items():
        known = [key for key in of_turns if key is not None and key in computed]
        if not known:
            continue
        matrix = np.full((turns, len(computed[known[0]])), np.nan, np.float16)
        for index, key in enumerate(of_turns):
            if key is not None and key in computed:
                matrix[index] = computed[key]
        vectors[modality] = matrix
    return vectors
