"""The measured time of a dialogue does not depend on what else the machine does."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from components.evaluate_model.runtime import Timing, measure_runtime, unloaded_seconds
from components.gate_model.candidate import Candidate
from components.gate_model.rules import rules

DIALOGUES: Sequence[Sequence[int]] = [[0]] * 5
ROW = np.random.default_rng(0).random(200)


def computing(seconds: float) -> Callable[[Sequence[Any]], object]:
    """A model that computes for so many seconds of the processor."""

    def predict(_dialogues: Sequence[Any]) -> object:
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            np.dot(ROW, ROW)
        return None

    return predict


def _spin() -> None:
    while True:
        pass


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Other processes that use the processor all the time."""
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=_spin, daemon=True) for _ in range(processes)]
    for process in others:
        process.start()
    try:
        yield
    finally:
        for process in others:
            process.kill()
        for process in others:
            process.join()


def measured(predict: Callable[[Sequence[Any]], object]) -> dict[str, float]:
    return measure_runtime(lambda: predict, DIALOGUES)


def outcome(runtime: dict[str, float], limit: float) -> str:
    rule = rules()["latency"]
    return rule.decide(Candidate({}, runtime), rule.thresholds(max_dialogue_ms=limit)).outcome


@pytest.mark.long
def test_a_busy_machine_does_not_reject_a_good_model_and_still_rejects_a_slow_one() -> None:
    seconds, limit = 0.03, 70.0
    with busy(3 * len(os.sched_getaffinity(0))):
        good, slow, waiting = (
            measured(computing(seconds)),
            measured(computing(5 * seconds)),
            measured(lambda _: time.sleep(5 * seconds)),
        )
    assert good["runtime.dialogue_ms.p95"] > limit, "the machine was not busy"
    assert outcome(good, limit) == "promote", good
    assert outcome(slow, limit) == outcome(waiting, limit) == "reject", (slow, waiting)


def test_an_idle_machine_gives_the_time_by_the_clock() -> None:
    figures = measured(lambda _: time.sleep(0.02))
    assert figures["runtime.unloaded_ms.p95"] == pytest.approx(20, rel=0.5)
    assert figures["runtime.unloaded_ms.p95"] <= figures["runtime.dialogue_ms.p95"]


@pytest.mark.parametrize(
    ("timing", "seconds"),
    [
        (Timing(2.0, 2.0, 1.0), 2.0),  # computes on an idle machine
        (Timing(6.0, 2.0, 3.0), 2.0),  # and on a busy one
        (Timing(6.0, 4.0, 3.0), 2.0),  # in two threads
        (Timing(6.0, 0.0, 3.0), 6.0),  # waits, which nobody slows down
        (Timing(7.0, 1.0, 3.0), 4.0),  # computes and waits
    ],
)
def test_the_slowdown_of_the_reference_is_taken_out(timing: Timing, seconds: float) -> None:
    assert unloaded_seconds(timing) == pytest.approx(seconds)
