"""Explain a dialogue's labels by predicting it again with parts of its utterances left out; the encoders do not run again.

Each pass leaves modalities of one utterance out and predicts the whole dialogue. Without all of its modalities an utterance is still
there, but silent: that pass is both the baseline of its own Shapley values and its influence on all others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import factorial
from typing import TYPE_CHECKING, Final

import numpy as np

from mistere.predictor.errors import over_limit
from mistere.serving.explanation import TURNS, Explanation

if TYPE_CHECKING:
    from mistere.model.dialogue_model import DialogueModel
    from mistere.model.dialogue_prediction import DialoguePrediction

MAX_MODALITIES: Final = 8
"""The most modalities of an utterance: each doubles the number of passes."""
MAX_ROWS: Final = 65_536
"""The most predictions of an utterance that the explanation of a request may take; 128 utterances of two modalities take 49,152. It is a
size and not a time: whether a request is too large must not depend on the replica that gets it."""
_CHUNK_ROWS: Final = 2048
"""Predictions at once: their vectors take 20 MB with the widest encoders."""
_ROUNDING: Final = 1e-5
"""An influence below it is a rounding error of the mixture."""


def rows_needed(present: np.ndarray, context: Collection[int]) -> int:
    """How many predictions of an utterance the explanation of a dialogue takes.

    Args:
        present: ``[n, M]``, whether each utterance has each modality.
        context: the utterances that are not predicted, and not explained.
    """
    counts = present.sum(axis=1).tolist()
    if len(context) == len(counts):
        return 0
    passes = sum(1 if index in context else 2**count - 1 for index, count in enumerate(counts) if count)
    return len(counts) * passes


def check_work(present: Sequence[np.ndarray], context: Sequence[frozenset[int]]) -> None:
    """Reject an explanation that takes more than a request may.

    Args:
        present: for each dialogue ``[n, M]``, whether each utterance has each modality.
        context: for each dialogue the utterances that are not explained.

    Raises:
        RequestError: it takes too many predictions, or an utterance has too many modalities.
    """
    most = max(int(table.sum(axis=1).max()) for table in present)
    if most > MAX_MODALITIES:
        raise over_limit(f"An utterance with more than {MAX_MODALITIES} modalities is not explained; one has {most}.")
    rows = sum(rows_needed(*pair) for pair in zip(present, context, strict=True))
    if rows > MAX_ROWS:
        least = sum(len(table) * int(table.any(axis=1).sum()) for table in present)  # each turn silent once
        marking = "mark some with predict false, or " if least < MAX_ROWS else ""
        raise over_limit(
            f"The explanation of a request may take {MAX_ROWS} predictions of an utterance; this one takes {rows}: {marking}send fewer "
            "utterances."
        )


class ExplainedDialogue:
    """A dialogue whose labels are being explained.

    Args:
        modalities: those of the model, in the order of the answer's columns.
        embeddings: by modality float32 ``[n, d]``, a NaN row where an utterance lacks it; a modality may be left out.
        prediction: the dialogue's prediction.
        context: the utterances that are not explained.

    Attributes:
        present: ``[n, M]``, whether each utterance has each modality.
    """

    def __init__(
        self,
        modalities: Sequence[str],
        embeddings: Mapping[str, np.ndarray],
        prediction: DialoguePrediction,
        context: Collection[int],
    ) -> None:
        self.modalities, self._embeddings, self._context = list(modalities), embeddings, frozenset(context)
        self._labels = prediction.probabilities.argmax(axis=1)
        self._whole = self._of_labels(prediction)
        self.present = np.stack(
            [
                ~np.isnan(embeddings[name]).any(axis=1) if name in embeddings else np.zeros(len(self), bool)
                for name in self.modalities
            ],
            axis=1,
        )
        self._silent: dict[int, np.ndarray] = {}
        self._values: dict[tuple[int, int], float] = {}

    def __len__(self) -> int:
        """The number of utterances."""
        return len(self._labels)

    def passes(self) -> Iterator[MaskedPass]:
        """The passes that the explanation takes, ``rows_needed`` rows in all."""
        if len(self._context) == len(self):
            return
        for turn, present in enumerate(self.present.tolist()):
            full = sum(1 << bit for bit, has in enumerate(present) if has)
            kept = 0
            while kept < full:
                yield MaskedPass(self, turn, kept)
                if turn in self._context:
                    break
                kept = (kept - full) & full  # the next subset of the modalities that the utterance has

    def masked(self, one: MaskedPass) -> dict[str, np.ndarray]:
        """The embeddings of a pass."""
        changed = dict(self._embeddings)
        for bit, name in enumerate(self.modalities):
            if self.present[one.turn, bit] and not one.kept >> bit & 1:
                changed[name] = changed[name].copy()
                changed[name][one.turn] = np.nan
        return changed

    def take(self, one: MaskedPass, prediction: DialoguePrediction) -> None:
        """Take the prediction of a pass."""
        values = self._of_labels(prediction)
        self._values[one.turn, one.kept] = float(values[one.turn])
        if not one.kept:
            self._silent[one.turn] = values

    def explanation(self) -> Explanation:
        """The explanation, once all passes are taken."""
        size = len(self)
        contributions = np.zeros((size, len(self.modalities)))
        baselines, influences = np.zeros(size), np.zeros((size, TURNS))
        turns = np.full((size, TURNS), -1, np.int32)
        for turn in range(size):
            if turn in self._context:
                continue
            contributions[turn] = self._shapley(turn)
            baselines[turn] = self._values.get((turn, 0), self._whole[turn])
            effects = {
                other: self._whole[turn] - values[turn] for other, values in self._silent.items() if other != turn
            }
            strongest = sorted(effects, key=lambda other: (-abs(effects[other]), other))[:TURNS]
            for rank, other in enumerate(other for other in strongest if abs(effects[other]) >= _ROUNDING):
                turns[turn, rank], influences[turn, rank] = other, effects[other]
        return Explanation(
            self.modalities,
            contributions.astype(np.float32),
            baselines.astype(np.float32),
            turns,
            influences.astype(np.float32),
        )

    def _shapley(self, turn: int) -> np.ndarray:
        """The Shapley value of each modality of an utterance ``[M]``, of its label's probability."""
        bits = [1 << bit for bit, has in enumerate(self.present[turn]) if has]
        full, count = sum(bits), len(bits)
        value = {kept: self._values.get((turn, kept), self._whole[turn]) for kept in _subsets(full)}
        result = np.zeros(len(self.modalities))
        for bit in bits:
            for kept in _subsets(full & ~bit):
                size = kept.bit_count()
                share = factorial(size) * factorial(count - size - 1) / factorial(count)
                result[bit.bit_length() - 1] += share * (value[kept | bit] - value[kept])
        return result

    def _of_labels(self, prediction: DialoguePrediction) -> np.ndarray:
        """The probability of each utterance's label, float64 ``[n]``."""
        chosen: np.ndarray = prediction.probabilities[np.arange(len(self._labels)), self._labels].astype(np.float64)
        return chosen


@dataclass(eq=False)
class MaskedPass:
    """A prediction of a dialogue in which an utterance lacks some of its modalities.

    Attributes:
        dialogue: the dialogue.
        turn: the utterance.
        kept: the modalities that it keeps, a bit for each of the dialogue's; 0 is silence.
        price: what it costs, seconds of audio.
    """

    dialogue: ExplainedDialogue
    turn: int
    kept: int
    price: float = 0.0

    @property
    def is_needless(self) -> bool:
        """Whether it need not be computed; see :class:`mistere.predictor.scheduling.slices.Priced`."""
        return False


def compute(model: DialogueModel, passes: Sequence[MaskedPass]) -> None:
    """Predict passes, of one or several dialogues, in batches."""
    start = 0
    while start < len(passes):
        end, rows = start, 0
        while end < len(passes) and (end == start or rows + len(passes[end].dialogue) <= _CHUNK_ROWS):
            rows += len(passes[end].dialogue)
            end += 1
        chunk = passes[start:end]
        for one, prediction in zip(
            chunk, model.predict_embeddings([each.dialogue.masked(each) for each in chunk]), strict=True
        ):
            one.dialogue.take(one, prediction)
        start = end


def _subsets(mask: int) -> Iterator[int]:
    """All subsets of a bit mask, the empty one first and the whole one last."""
    kept = 0
    while True:
        yield kept
        if kept == mask:
            return
        kept = (kept - mask) & mask
