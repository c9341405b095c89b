"""Copies of training utterances as they are heard through a call (``speech.augmentation``)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mistere.common.errors import UsageError
from mistere.common.modalities import SPEECH
from mistere.config.calls import CallAugmentation
from mistere.config.encoder import EncoderConfig
from mistere.data.calls.catalogue import effects_named
from mistere.data.calls.effect import Effect, Surroundings
from mistere.data.dataset import Utterance
from mistere.data.utterances import UtteranceReader

_SEED_STEP = 7919
"""Distance of the seeds of two copies, so that they differ in noise as well as in effect."""


class CallCopies:
    """Makes the copies of an utterance; they depend on the seed and the utterance alone.

    Args:
        settings: number of copies.
        effects: the effects; each copy gets one, at one of its levels.
        around: voices of other training dialogues.
        seed: of the draws.
    """

    def __init__(self, settings: CallAugmentation, effects: Sequence[Effect], around: Surroundings, seed: int) -> None:
        self.variants = settings.variants
        self._effects, self._around, self._seed = effects, around, seed

    @classmethod
    def of(cls, config: EncoderConfig, reader: UtteranceReader) -> CallCopies | None:
        """For the train split of a dataset; None if no utterance is to be heard through a call.

        Raises:
            UsageError: the only effect mixes in other dialogues, and the dataset has one.
        """
        if config.augmentation.variants == 1:
            return None
        effects = [one for one in effects_named(config.augmentation.effects) if one.affected == SPEECH]
        around = Surroundings.of(reader.stream("train", (SPEECH,)))
        if not around.has_others:
            effects = [one for one in effects if not one.needs_others]
        if not effects:
            raise UsageError(
                "only one training dialogue has recordings, and every effect of speech.augmentation.effects mixes in other dialogues: "
                "choose other effects, or set speech.augmentation.share=0."
            )
        return cls(config.augmentation, effects, around, config.seed)

    def __call__(self, utterance: Utterance) -> list[Utterance]:
        """The copies, without the original."""
        copies = []
        for number in range(1, self.variants):
            draw = np.random.default_rng([self._seed, number, utterance.turn, *utterance.dialogue_id.encode()])
            levels = self._effects[int(draw.integers(len(self._effects)))].levels
            level = levels[int(draw.integers(len(levels)))]
            copies.append(level.utterance(utterance, self._around, self._seed + _SEED_STEP * number))
        return copies
