"""Live traffic: false alarms in simulated weeks, drifts found within a day, and what counting costs a request.

usage: mistere bench monitor [--weeks 100] [--days 100] [--looks 6,12,18,24] [--parts alarms,drifts,counting] [--seed 1]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np

from mistere.model.mixture.prediction import DialoguePrediction
from mistere.predictor.protocol.codec import DialogueRequest, RequestTurn
from mistere.predictor.traffic.observation import TrafficObserver
from mistere.predictor.traffic.recorder import TrafficRecorder
from tests.unit.traffic.simulation import FIGURES, LABELS, World, alarms, found

WORLD = World()


def show_alarms(weeks: int, looks: tuple[int, ...], seed: int) -> None:
    """The worst verdict of each week without drift."""
    start = time.perf_counter()
    worst = alarms(weeks, WORLD, np.random.default_rng(seed), looks)
    shown = ", ".join(f"{verdict} {worst.count(verdict)}" for verdict in ("steady", "watch", "drifted"))
    print(f"{weeks} weeks without drift, {len(looks)} looks a day: {shown}  ({time.perf_counter() - start:.0f} s)")


def show_drifts(days: int, seed: int) -> None:
    """How often a drift is found at the end of its first day."""
    worlds = {
        f"{label} {points:+.0%}": WORLD.with_moved_label(number, points)
        for number, label in enumerate(LABELS)
        for points in (0.1, -0.1)
        if WORLD.shares[number] + points > 0
    }
    worlds |= {f"levels {change:+d} dB": replace(WORLD, level=WORLD.level + change) for change in (6, -6, 3)}
    for name, world in worlds.items():
        print(f"{name:<16} found in {sum(found(days, WORLD, world, np.random.default_rng(seed)))} of {days} days")


def show_counting() -> None:
    """CPU time of counting one request, which happens after its response is on its way."""
    observer = TrafficObserver(TrafficRecorder(FIGURES), FIGURES.experts)
    generator = np.random.default_rng(0)
    for turns, new in ((1, 1), (10, 1), (10, 10), (128, 1), (128, 128)):
        answer = DialoguePrediction(
            generator.dirichlet(np.ones(len(LABELS)), turns).astype(np.float32),
            generator.dirichlet(np.ones(3), turns).astype(np.float32),
            np.zeros((turns, 3, len(LABELS)), np.float32),
            ["speech+text"] * turns,
        )
        seconds = []
        for number in range(1000 if turns < 50 else 200):
            texts = [f"Sentence {index} of {number if index >= turns - new else new}." for index in range(turns)]
            dialogue = DialogueRequest(turns=[RequestTurn(text=text) for text in texts])
            start = time.thread_time()
            observer.observe([dialogue], [dialogue], [answer], None)
            seconds.append(time.thread_time() - start)
        low, middle = 1e6 * np.percentile(seconds, [10, 50])
        print(f"request of {turns} turns, {new} new: {middle:.0f} µs (10 % below {low:.0f})")


def main() -> None:
    """Run the parts."""
    parser = argparse.ArgumentParser(prog="mistere bench monitor")
    parser.add_argument("--weeks", type=int, default=100)
    parser.add_argument("--days", type=int, default=100)
    parser.add_argument("--looks", type=lambda hours: tuple(map(int, hours.split(","))), default="6,12,18,24")
    parser.add_argument("--parts", default="alarms,drifts,counting")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    parts = arguments.parts.split(",")
    if "alarms" in parts:
        show_alarms(arguments.weeks, arguments.looks, arguments.seed)
    if "drifts" in parts:
        show_drifts(arguments.days, arguments.seed)
    if "counting" in parts:
        show_counting()


if __name__ == "__main__":
    main()
