"""What the model costs on this machine: time for a raw dialogue, memory while it is loaded, size on disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mistere.data.dataset import Utterance

if TYPE_CHECKING:
    from mistere.model.inference import DialogueModel

_ROUNDS = 3


def resident_mb() -> float:
    """Memory that this process holds now (Linux), in MiB; 0 where that cannot be read."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    import os

    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def sizes(own_bytes: int, base_bytes: int) -> dict[str, float]:
    """``runtime.size_mb`` of what a bundle holds itself, and ``runtime.size_with_base_mb`` with the base weights it refers to."""
    return {
        "runtime.size_mb": round(own_bytes / 2**20, 3),
        "runtime.size_with_base_mb": round((own_bytes + base_bytes) / 2**20, 3),
    }


def measure_runtime(load: Callable[[], DialogueModel], dialogues: Sequence[Sequence[Utterance]]) -> dict[str, float]:
    """Figures that are this machine's, so they differ from run to run.

    Args:
        load: makes the model; what it adds to the process's memory is the model's.
        dialogues: raw ones to answer, each alone, as the endpoint would.

    Returns:
        ``runtime.memory_mb`` and, where there is a dialogue, ``runtime.dialogue_ms.p50``, ``runtime.dialogue_ms.p95`` and
        ``runtime.utterance_ms``.
    """
    before = resident_mb()
    model = load()
    figures: dict[str, float] = {}
    if dialogues:
        model.predict(dialogues[:1])  # the first answer pays for what is only done once
        seconds = []
        for _ in range(_ROUNDS):
            for dialogue in dialogues:
                clock = time.perf_counter()
                model.predict([dialogue])
                seconds.append(time.perf_counter() - clock)
        p50, p95 = np.quantile(seconds, [0.5, 0.95])
        figures["runtime.dialogue_ms.p50"], figures["runtime.dialogue_ms.p95"] = 1000 * p50, 1000 * p95
        figures["runtime.utterance_ms"] = 1000 * sum(seconds) / (_ROUNDS * sum(map(len, dialogues)))
    figures["runtime.memory_mb"] = max(0.0, resident_mb() - before)
    return {name: round(float(value), 3) for name, value in figures.items()}
