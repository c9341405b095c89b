"""Cost of the model on this machine: time for a dialogue, memory, size on disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np

Predictor = Callable[[Sequence[Any]], object]
"""Predicts dialogues as the model takes them."""

_ROUNDS = 3


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
        ``runtime.utterance_ms``.
    """
    before = resident_mb()
    predict = load()
    figures: dict[str, float] = {}
    if dialogues:
        predict(dialogues[:1])  # warm up: the first prediction includes one-time costs
        seconds = []
        for _ in range(_ROUNDS):
            for dialogue in dialogues:
                clock = time.perf_counter()
                predict([dialogue])
                seconds.append(time.perf_counter() - clock)
        p50, p95 = np.quantile(seconds, [0.5, 0.95])
        figures["runtime.dialogue_ms.p50"], figures["runtime.dialogue_ms.p95"] = 1000 * p50, 1000 * p95
        figures["runtime.utterance_ms"] = 1000 * sum(seconds) / (_ROUNDS * sum(map(len, dialogues)))
    figures["runtime.memory_mb"] = max(0.0, resident_mb() - before)
    return {name: round(float(value), 3) for name, value in figures.items()}
