"""Simulated traffic: dialogues whose turns resemble each other in labels, levels, confidence, modalities and script."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mistere.serving.traffic.comparison import Comparison, Verdict, compare_traffic
from mistere.serving.traffic.figures import TOTAL_POSITIONS, Counts, Figures, prediction_positions

LABELS = ("neutral", "joy", "surprise", "anger", "sadness", "disgust", "fear")
FIGURES = Figures(LABELS, ("speech", "text", "cross_modal"), ("speech", "text"))
SHARES = (0.46, 0.18, 0.12, 0.11, 0.08, 0.03, 0.02)
DAY_TURNS = 5000
REFERENCE_TURNS = 2600
"""As many as MELD's test split has."""
_HOURS = 24


@dataclass(frozen=True)
class World:
    """What traffic is drawn from.

    Attributes:
        shares: of the labels.
        correlation: of the labels within a dialogue.
        level: mean level of the recordings, dBFS.
        turns: of a dialogue, on average.
        gathered: a label, and its share in the few dialogues that have it; None for none.
    """

    shares: tuple[float, ...] = SHARES
    correlation: float = 0.08
    level: float = -26.0
    turns: int = 10
    gathered: tuple[int, float] | None = None

    def with_moved_label(self, label: int, points: float) -> World:
        """The same with one label's share moved by so many points; the others shrink or grow in proportion."""
        shares = np.array(self.shares)
        moved = shares * (1 - shares[label] - points) / (1 - shares[label])
        moved[label] = shares[label] + points
        return replace(self, shares=tuple(moved))


def draw(world: World, turns: int, generator: np.random.Generator, hours: int = _HOURS) -> list[Counts]:
    """Counts of so many hours of about ``turns`` turns together; each dialogue lies within an hour."""
    dialogues = max(1, turns // world.turns)
    sizes = 1 + generator.poisson(world.turns - 1, dialogues)
    of_turn = np.repeat(np.arange(dialogues), sizes)
    hour = generator.integers(0, hours, dialogues)
    total = len(of_turn)
    spread = (1 - world.correlation) / world.correlation
    by_dialogue = generator.gamma(np.array(world.shares) * spread, size=(dialogues, len(world.shares)))
    by_dialogue /= by_dialogue.sum(1, keepdims=True)
    if world.gathered is not None:
        label, share = world.gathered
        has = generator.random(dialogues) < world.shares[label] / share
        by_dialogue[:, label] = 0
        by_dialogue *= np.where(has, 1 - share, 1)[:, None] / by_dialogue.sum(1, keepdims=True)
        by_dialogue[has, label] = share
    labels = (generator.random((total, 1)) > by_dialogue.cumsum(1)[of_turn]).sum(1).clip(0, len(world.shares) - 1)
    mood = generator.normal(0, 0.5, dialogues)[of_turn]
    top = 1 / (1 + np.exp(-(1.0 + mood + generator.normal(0, 1.0, total))))
    confidence = 0.2 + 0.8 * top
    probabilities = np.repeat(((1 - confidence) / (len(LABELS) - 1))[:, None], len(LABELS), 1)
    probabilities[np.arange(total), labels] = confidence
    spoken = (generator.random(dialogues) < 0.9)[of_turn]
    weights = generator.dirichlet((2.0, 4.0, 3.0), total)
    weights[~spoken, 0] = 0.0
    weights /= weights.sum(1, keepdims=True)
    modalities = np.where(spoken, "speech+text", "text")
    length = np.exp(generator.normal(3.4, 0.3, dialogues)[of_turn] + generator.normal(0, 0.7, total))
    level = world.level + generator.normal(0, 5, dialogues)[of_turn] + generator.normal(0, 3, total)
    foreign = (generator.random(dialogues) < 0.02)[of_turn]
    result = []
    for number in range(hours):
        rows = np.flatnonzero(hour[of_turn] == number)
        counts = FIGURES.empty()
        if len(rows):
            heard = rows[spoken[rows]]
            positions = [
                prediction_positions(
                    FIGURES, probabilities[rows].astype(np.float32), weights[rows], modalities[rows].tolist()
                ),
                _binned("text_length", length[rows]),
                _binned("seconds", 0.4 + length[heard] / 14),
                _binned("rms_dbfs", level[heard]),
                np.where(foreign[rows], FIGURES.script_positions["Cyrillic"], FIGURES.script_positions["Latin"]),
            ]
            counts.values[:] = np.bincount(np.concatenate(positions), minlength=FIGURES.size)
            of_label = np.zeros((dialogues, len(LABELS)), np.int64)
            np.add.at(of_label, (of_turn[rows], labels[rows]), 1)
            size = of_label.sum(1)
            pairs = int((size * (size - 1) // 2).sum())
            both = (of_label * (of_label - 1) // 2).sum(0)
            one = (of_label * (size[:, None] - of_label)).sum(0)
            counts.table("label_pairs")[:] = np.stack([pairs - one - both, one, both], 1)
            totals = {"dialogues": int((size > 0).sum()), "turns": len(rows), "pairs": pairs}
            for key, count in totals.items():
                counts.values[TOTAL_POSITIONS[key]] = count
        result.append(counts)
    return result


def _binned(name: str, values: np.ndarray) -> np.ndarray:
    figure = FIGURES.by_name[name]
    scaled = (values - figure.low) * figure.bins / (figure.high - figure.low)
    return figure.start + np.clip(scaled, 0, figure.bins - 1).astype(np.int64)


def reference(world: World, generator: np.random.Generator, turns: int = REFERENCE_TURNS) -> Counts:
    """What a bundle made in this world carries."""
    (counts,) = draw(world, turns, generator, hours=1)
    return counts


def watch(days: list[list[Counts]], before: Counts, looks: tuple[int, ...] = (_HOURS,)) -> list[Comparison]:
    """The comparisons that somebody sees who looks each day after so many hours, and back to the first day."""
    seen: dict[int, Counts] = {}
    comparisons = []
    for day, hours in enumerate(days):
        for look in looks:
            for number in range(look):
                seen[24 * day + number] = hours[number]
            comparisons.append(compare_traffic(seen, before, 24 * day + look))
    return comparisons


def alarms(
    weeks: int, world: World, generator: np.random.Generator, looks: tuple[int, ...] = (_HOURS,)
) -> list[Verdict]:
    """The worst verdict that is seen in each of so many weeks without drift, each with a reference of its own."""
    order: list[Verdict] = ["steady", "watch", "drifted"]
    worst: list[Verdict] = []
    for _ in range(weeks):
        before = reference(world, generator)
        week = [draw(world, DAY_TURNS, generator) for _ in range(7)]
        worst.append(max((one.verdict for one in watch(week, before, looks)), key=order.index))
    return worst


def found(days: int, world: World, drifted: World, generator: np.random.Generator) -> list[bool]:
    """Whether the drift is found at the end of its first day, for so many such days."""
    return [
        watch([draw(drifted, DAY_TURNS, generator)], reference(world, generator))[0].verdict == "drifted"
        for _ in range(days)
    ]
