"""Cost of the model on this machine: time for a dialogue, memory, size on disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Predictor = Callable[[Sequence[Any]], object]
"""Predicts dialogues as the model takes them."""

_ROUNDS = 3
_REFERENCE_SECONDS = (0.02, 0.25)
"""Bounds of the reference computation beside each timed prediction, which otherwise takes as long as that."""
_REFERENCE_STEPS = 20_000  # about a millisecond


def resident_mb() -> float:
    """Resident memory of this process (Linux) in MiB; 0 if it cannot be read."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    import os

    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def sizes(own_bytes: int, base_bytes: int) -> dict[str, float]:
    """``runtime.size_mb`` of the bundle's own files, and ``runtime.size_with_base_mb`` including the base weights."""
    return {
        "runtime.size_mb": round(own_bytes / 2**20, 3),
        "runtime.size_with_base_mb": round((own_bytes + base_bytes) / 2**20, 3),
    }


def measure_runtime(load: Callable[[], Predictor], dialogues: Sequence[Sized]) -> dict[str, float]:
    """Measure time and memory. The figures depend on the machine and differ from run to run.

    Args:
        load: loads the model and returns its prediction; the memory it adds to the process is the model's.
        dialogues: dialogues as the model takes them, raw or as vectors, predicted one at a time as the endpoint does.

    Returns:
        ``runtime.memory_mb`` and, if there is a dialogue, ``runtime.dialogue_ms.p50``, ``runtime.dialogue_ms.p95`` and
        ``runtime.utterance_ms`` by the clock, and ``runtime.unloaded_ms.p95``, the same percentile without the time that other
        processes took from this one (:func:`unloaded_seconds`).
    """
    before = resident_mb()
    predict = load()
    figures: dict[str, float] = {}
    if dialogues:
        predict(dialogues[:1])  # warm up: the first prediction includes one-time costs
        timings = [[_timed(predict, dialogue) for dialogue in dialogues] for _ in range(_ROUNDS)]
        seconds = [one.seconds for timing in timings for one in timing]
        p50, p95 = np.quantile(seconds, [0.5, 0.95])
        figures["runtime.dialogue_ms.p50"], figures["runtime.dialogue_ms.p95"] = 1000 * p50, 1000 * p95
        figures["runtime.utterance_ms"] = 1000 * sum(seconds) / (_ROUNDS * sum(map(len, dialogues)))
        # The best round of each dialogue: what disturbs a prediction only makes it slower.
        unloaded = [min(unloaded_seconds(one) for one in rounds) for rounds in zip(*timings, strict=True)]
        figures["runtime.unloaded_ms.p95"] = 1000 * float(np.quantile(unloaded, 0.95))
    figures["runtime.memory_mb"] = max(0.0, resident_mb() - before)
    return {name: round(float(value), 3) for name, value in figures.items()}


@dataclass(frozen=True)
class Timing:
    """One timed prediction.

    Attributes:
        seconds: by the clock.
        processor_seconds: of all threads of this process.
        slowdown: by how much the reference computation beside it took longer by the clock than it used the processor; 1 on a machine
            with nothing else to do.
    """

    seconds: float
    processor_seconds: float
    slowdown: float


def unloaded_seconds(timing: Timing) -> float:
    """The time that the prediction would have taken by the clock, had no other process used the processor.

    A prediction that computes is slowed down as the reference is. What no slowdown of its own computation explains (waiting for a
    GPU, a disk or a sleep) counts in full.
    """
    waited = timing.seconds - timing.slowdown * timing.processor_seconds
    return max(timing.seconds / timing.slowdown, waited)


def _timed(predict: Predictor, dialogue: Any) -> Timing:
    clock, processor = time.perf_counter(), time.process_time()
    predict([dialogue])
    seconds, processor_seconds = time.perf_counter() - clock, time.process_time() - processor
    return Timing(seconds, processor_seconds, _slowdown(seconds))


def _slowdown(seconds: float) -> float:
    """How much longer than its processor time a reference computation takes now, over about ``seconds``."""
    shortest, longest = _REFERENCE_SECONDS
    wanted = min(max(seconds, shortest), longest)
    clock, processor = time.perf_counter(), time.thread_time()
    while (elapsed := time.perf_counter() - clock) < wanted:
        sum(range(_REFERENCE_STEPS))
    return max(1.0, elapsed / max(time.thread_time() - processor, 1e-9))
