"""Plan the dialogues of the sample: speakers, texts and emotions.

Emotions follow simple dynamics: a speaker tends to keep the last emotion, partly adopts the other speaker's, and both depend on the
scenario of the dialogue. So the context of a dialogue carries information.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mistere.common.errors import UsageError
from mistere.common.splits import SPLITS, Split
from mistere.corpora.sample.turn_kinds import TurnKind, draw_kind
from mistere.corpora.sample.voices import Voice, voices_of
from mistere.corpora.sample.wording import EMOTIONS, Emotion, word

_Card = TypeVar("_Card")

MIN_TURNS, MAX_TURNS = 8, 14
MIN_DIALOGUES = 3
DIALOGUES = 260
_SPLIT_SHARES: dict[Split, float] = {"dev": 30 / DIALOGUES, "test": 150 / DIALOGUES}
"""Dev and test are large for a corpus of this size: encoders are trained on train only, so they cost little time, and the figures
on test have a standard error of about a point."""

_INERTIA, _CONTAGION, _SCENARIO = 0.46, 0.26, 0.28
_SPEAK_AGAIN = 0.1
"""Probability that a speaker continues with a second utterance."""

# Columns as in EMOTIONS: neutral, happy, sad, angry, fearful, surprised.
_SCENARIOS: dict[str, tuple[float, ...]] = {
    "everyday": (0.60, 0.12, 0.07, 0.09, 0.04, 0.08),
    "good news": (0.14, 0.48, 0.02, 0.02, 0.02, 0.32),
    "loss": (0.18, 0.02, 0.58, 0.07, 0.12, 0.03),
    "conflict": (0.15, 0.02, 0.11, 0.58, 0.06, 0.08),
    "threat": (0.15, 0.02, 0.09, 0.07, 0.53, 0.14),
}
_AFTER: dict[Emotion, tuple[float, ...]] = {
    "neutral": (0.62, 0.10, 0.07, 0.08, 0.05, 0.08),
    "happy": (0.14, 0.62, 0.02, 0.03, 0.02, 0.17),
    "sad": (0.20, 0.04, 0.56, 0.05, 0.12, 0.03),
    "angry": (0.10, 0.02, 0.14, 0.56, 0.10, 0.08),
    "fearful": (0.16, 0.02, 0.12, 0.06, 0.53, 0.11),
    "surprised": (0.18, 0.26, 0.04, 0.07, 0.11, 0.34),
}


@dataclass(frozen=True, slots=True)
class PlannedUtterance:
    """One utterance to speak. Its delivery depends on ``seed`` alone, so utterances are independent of each other."""

    split: Split
    dialogue_id: str
    turn: int
    voice: Voice
    emotion: Emotion
    kind: TurnKind
    text: str
    seed: int


def split_sizes(dialogues: int) -> dict[Split, int]:
    """Dialogues per split: 80, 30 and 150 of 260, and at least one each.

    Raises:
        UsageError: fewer dialogues than splits.
    """
    if dialogues < MIN_DIALOGUES:
        raise UsageError(
            f"the sample needs at least {MIN_DIALOGUES} dialogues, one for each split; {dialogues} were requested."
        )
    dev, test = (max(1, round(dialogues * _SPLIT_SHARES[split])) for split in ("dev", "test"))
    test = min(test, dialogues - dev - 1)
    return {"train": dialogues - dev - test, "dev": dev, "test": test}


def plan(seed: int, dialogues: int) -> Iterator[PlannedUtterance]:
    """The whole corpus in file order: split by split, dialogue by dialogue, turn by turn."""
    sizes = split_sizes(dialogues)
    for split in SPLITS:
        lengths = _deal(range(MIN_TURNS, MAX_TURNS + 1), sizes[split], random.Random(f"{seed}/{split}/lengths"))  # noqa: S311  (the seed must reproduce the sample)
        scenarios = _deal(sorted(_SCENARIOS), sizes[split], random.Random(f"{seed}/{split}/scenarios"))  # noqa: S311  (the seed must reproduce the sample)
        for index, (turns, scenario) in enumerate(zip(lengths, scenarios, strict=True)):
            yield from _dialogue(split, index, turns, _SCENARIOS[scenario], seed)


def _deal(cards: Sequence[_Card], count: int, draw: random.Random) -> list[_Card]:
    """Draw ``count`` values from full shuffled decks, so that the composition of a split hardly depends on the seed."""
    dealt: list[_Card] = []
    while len(dealt) < count:
        dealt.extend(draw.sample(cards, len(cards)))
    return dealt[:count]


def _dialogue(
    split: Split, index: int, turns: int, scenario: tuple[float, ...], seed: int
) -> Iterator[PlannedUtterance]:
    dialogue_id = f"{split}-{index:04d}"
    draw = random.Random(f"{seed}/{dialogue_id}")  # noqa: S311  (the seed must reproduce the sample)
    pair = draw.sample(voices_of(split), 2)
    own: dict[int, Emotion] = {}
    previous: Emotion | None = None
    speaking = 0
    for turn in range(turns):
        if turn and draw.random() >= _SPEAK_AGAIN:
            speaking = 1 - speaking
        emotion = _next_emotion(draw, scenario, own.get(speaking), previous)
        own[speaking] = previous = emotion
        kind = draw_kind(draw)
        text = word(emotion, kind, draw)
        yield PlannedUtterance(split, dialogue_id, turn, pair[speaking], emotion, kind, text, draw.getrandbits(62))


def _next_emotion(
    draw: random.Random, scenario: tuple[float, ...], own: Emotion | None, previous: Emotion | None
) -> Emotion:
    """Draw an emotion from the scenario, the speaker's own last emotion and the previous utterance's."""
    weights = []
    for column, emotion in enumerate(EMOTIONS):
        kept = float(emotion == own) if own else scenario[column]
        caught = _AFTER[previous][column] if previous else scenario[column]
        weights.append(_SCENARIO * scenario[column] + _INERTIA * kept + _CONTAGION * caught)
    return draw.choices(EMOTIONS, weights)[0]
