"""Time and memory of a model: a slow one is timed on less, and a failure says why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mistere.common.errors import MistereError
from mistere.evaluation import footprint as module
from mistere.evaluation.footprint import footprint, measure

DIALOGUES = [["turn"] * turns for turns in (2, 4, 6)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0], process_time=lambda: now[0]))
    return now


@pytest.mark.parametrize(
    ("budget", "predicted", "turns"), [(1000, 10, 12), (13, 4, 2), (23, 5, 6), (2, 1, 2), (0, 1, 2)]
)
def test_a_slow_model_has_fewer_rounds_and_dialogues(
    clock: list[float], budget: float, predicted: int, turns: int
) -> None:
    calls: list[int] = []

    def predict(dialogues: Sequence[Any]) -> None:
        calls.append(len(dialogues[0]))
        clock[0] += 2.0 * len(dialogues[0])  # two seconds for a turn

    cost = measure(predict, DIALOGUES, budget)
    assert (cost.turn_ms, cost.turns, len(calls)) == (2000, turns, predicted)


def test_a_failure_says_why(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    with pytest.raises(MistereError, match=r"of nowhere could not be measured \(.*UtteranceSet") as caught:
        footprint("nowhere", str(tmp_path / "store"), "0" * 64, 1)
    assert "\n" not in str(caught.value)
    assert module._reason(-9, "a warning") == "signal 9 ended its process, as where memory is short"
    assert module._reason(1, " \n") == "its process ended with code 1"
