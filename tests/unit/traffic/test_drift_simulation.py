"""Simulated weeks: hardly any alarm without drift, and hardly any drift missed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mistere.serving.traffic.comparison import WEEKLY_ALPHA, day_alpha
from tests.unit.traffic.simulation import LABELS, World, alarms, found

WORLD = World()
GATHERED = {
    "anger in a fifth of the dialogues": replace(WORLD, gathered=(3, 0.5)),
    "disgust in every tenth": replace(WORLD, gathered=(5, 0.3)),
    "disgust in every 17th": replace(WORLD, gathered=(5, 0.5)),
    "fear in every 45th": replace(WORLD, gathered=(6, 0.9)),
}
"""A label that is concentrated in few dialogues, while the others are hardly correlated."""
DRIFTS = {
    **{f"{label} +10 points": WORLD.with_moved_label(number, 0.1) for number, label in enumerate(LABELS)},
    "neutral -10 points": WORLD.with_moved_label(0, -0.1),
    "joy -10 points": WORLD.with_moved_label(1, -0.1),
    "levels +6 dB": replace(WORLD, level=WORLD.level + 6),
    "levels -6 dB": replace(WORLD, level=WORLD.level - 6),
}


def test_the_budget_of_a_week_is_spent_once() -> None:
    assert 7 * (day_alpha(whole=True) + 24 * day_alpha(whole=False)) == pytest.approx(WEEKLY_ALPHA)


def test_a_few_weeks_and_days() -> None:
    assert alarms(3, WORLD, np.random.default_rng(0)) == ["steady"] * 3
    for name in ("neutral +10 points", "levels -6 dB"):
        assert sum(found(5, WORLD, DRIFTS[name], np.random.default_rng(0))) >= 4, name


@pytest.mark.long
def test_at_most_one_false_alarm_in_a_hundred_weeks() -> None:
    """Somebody looks four times a day, while the day lasts too; a verdict to watch counts as an alarm."""
    worst = alarms(100, WORLD, np.random.default_rng(1), looks=(6, 12, 18, 24))
    assert sum(verdict != "steady" for verdict in worst) <= 1


@pytest.mark.long
def test_no_false_alarm_where_turns_of_a_dialogue_are_alike() -> None:
    world = replace(WORLD, correlation=0.3, turns=25)
    worst = alarms(50, world, np.random.default_rng(2))
    assert sum(verdict != "steady" for verdict in worst) <= 1


def test_a_rare_label_that_comes_in_few_dialogues_is_no_drift() -> None:
    """Its own correlation counts: with that of all labels together the second of these weeks would be drifted."""
    assert alarms(8, GATHERED["disgust in every 17th"], np.random.default_rng(0)) == ["steady"] * 8


@pytest.mark.long
@pytest.mark.parametrize("name", GATHERED)
def test_at_most_one_false_alarm_in_a_hundred_weeks_with_a_gathered_label(name: str) -> None:
    worst = alarms(100, GATHERED[name], np.random.default_rng(1))
    assert sum(verdict != "steady" for verdict in worst) <= 1


@pytest.mark.long
@pytest.mark.parametrize("name", DRIFTS)
def test_a_drift_is_found_within_a_day(name: str) -> None:
    assert sum(found(100, WORLD, DRIFTS[name], np.random.default_rng(3))) >= 95
