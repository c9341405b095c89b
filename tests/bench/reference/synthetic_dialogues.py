"""Synthetic dialogues as embeddings, whose structure is known: complementary modalities and labels that persist over turns.

Six classes. Speech cannot tell class 0 from 1 or 2 from 3, text cannot tell 0 from 2 or 1 from 3, so only both together separate
all classes. A label repeats the previous turn's with probability ``persistence``, so the context helps. A row is the class mean
in an 8-dimensional latent space plus Gaussian noise, projected to the modality's columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from mistere.common.splits import SPLITS
from mistere.model.embeddings import EmbeddedDialogue, EmbeddedDialogues

CLASSES = 6
LATENT = 8
SAME_MEAN: Mapping[str, tuple[tuple[int, int], ...]] = MappingProxyType(
    {"speech": ((0, 1), (2, 3)), "text": ((0, 2), (1, 3))}
)
"""Pairs of classes that a modality cannot tell apart."""


@dataclass(frozen=True)
class SyntheticSet:
    """The structure of one set.

    Attributes:
        dialogues: number of dialogues in train, dev and test.
        widths: columns of each modality.
        signal: size of the class means of each modality; the latent noise is 1.5.
        noisy_turns: share of the turns in which a modality is noise without any signal.
        turns: mean number of turns in a dialogue.
        persistence: probability that a turn repeats the previous label; otherwise the label is drawn anew.
        wild_scales: multiply columns by very different factors and make some constant.
        absent_turns: share of the turns that lack a modality.
        dialogue_shift: deviation of an offset in the latent space that all turns of a dialogue share, as of a speaker or a microphone.
        imbalance: each class is this many times as frequent as the next.
    """

    dialogues: tuple[int, int, int] = (60, 30, 100)
    widths: Mapping[str, int] = field(default_factory=lambda: {"speech": 20, "text": 384})
    signal: Mapping[str, float] = field(default_factory=lambda: {"speech": 0.9, "text": 1.1})
    noisy_turns: Mapping[str, float] = field(default_factory=dict)
    turns: float = 12
    persistence: float = 0.6
    wild_scales: bool = False
    absent_turns: Mapping[str, float] = field(default_factory=dict)
    dialogue_shift: float = 0.0
    imbalance: float = 1.0


SETS: Mapping[str, SyntheticSet] = MappingProxyType(
    {
        "clean": SyntheticSet(),
        "noise": SyntheticSet(noisy_turns={"speech": 0.35}),
        "weak_third": SyntheticSet(
            widths={"speech": 20, "text": 384, "video": 64}, signal={"speech": 0.9, "text": 1.1, "video": 0.15}
        ),
        "wild": SyntheticSet(wild_scales=True),
        "small": SyntheticSet(dialogues=(25, 10, 100)),
        "large": SyntheticSet(dialogues=(830, 80, 100)),
        "wide": SyntheticSet(widths={"speech": 2048, "text": 2048}),
        "hard": SyntheticSet(
            dialogues=(90, 30, 100),
            widths={"speech": 73, "text": 768},
            noisy_turns={"text": 0.2},
            turns=20,
            persistence=0.45,
            absent_turns={"speech": 0.15, "text": 0.1},
            dialogue_shift=0.7,
            imbalance=1.5,
        ),
    }
)
"""``hard`` was not used to choose any default. ``small`` has about 300 train utterances, ``large`` about 10,000, the others about 720."""


def generate(made_of: SyntheticSet, seed: int = 0) -> EmbeddedDialogues:
    """Generate a set; the same seed gives the same numbers.

    Args:
        made_of: its structure.
        seed: of all random draws.
    """
    draw = np.random.default_rng(seed)
    means = {name: draw.normal(size=(CLASSES, LATENT)) for name in made_of.widths}
    for name, pairs in SAME_MEAN.items():
        for first, second in pairs:
            means[name][second] = means[name][first]
    maps = {name: draw.normal(size=(LATENT, width)) / np.sqrt(LATENT) for name, width in made_of.widths.items()}
    rows: dict[str, list[np.ndarray]] = {name: [] for name in made_of.widths}
    dialogues: dict[str, list[EmbeddedDialogue]] = {split: [] for split in SPLITS}
    start = 0
    for split, count in zip(("train", "dev", "test"), made_of.dialogues, strict=True):
        for index in range(count):
            labels = _labels(draw, max(3, int(draw.poisson(made_of.turns))), made_of)
            for name, width in made_of.widths.items():
                latent = means[name][labels] * made_of.signal[name] + 1.5 * draw.normal(size=(len(labels), LATENT))
                noisy = draw.random(len(labels)) < made_of.noisy_turns.get(name, 0.0)
                latent[noisy] = 2 * draw.normal(size=(int(noisy.sum()), LATENT))
                if made_of.dialogue_shift:
                    latent += made_of.dialogue_shift * draw.normal(size=LATENT)
                values = latent @ maps[name] + 0.5 * draw.normal(size=(len(labels), width))
                if absent := made_of.absent_turns.get(name, 0.0):
                    values[draw.random(len(labels)) < absent] = np.nan
                rows[name].append(values.astype(np.float32))
            dialogues[split].append(EmbeddedDialogue(f"{split}-{index}", slice(start, start + len(labels)), labels))
            start += len(labels)
    matrices = {name: np.concatenate(parts) for name, parts in rows.items()}
    if made_of.wild_scales:
        matrices["speech"][:, 0] *= 300
        matrices["speech"][:, 1] = 7
        matrices["text"] *= 0.05
        matrices["text"][:, :3] = 0
    return EmbeddedDialogues(dialogues, matrices, [f"class {index}" for index in range(CLASSES)])


def _labels(draw: np.random.Generator, turns: int, made_of: SyntheticSet) -> np.ndarray:
    if made_of.imbalance == 1:
        labels = draw.integers(CLASSES, size=turns)
    else:
        shares = made_of.imbalance ** -np.arange(CLASSES, dtype=np.float64)
        labels = draw.choice(CLASSES, size=turns, p=shares / shares.sum())
    repeats = draw.random(turns) < made_of.persistence
    for turn in range(1, turns):
        if repeats[turn]:
            labels[turn] = labels[turn - 1]
    return labels
