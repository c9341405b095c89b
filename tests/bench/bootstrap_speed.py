"""Bootstrap intervals of MELD's test split compared with repeated single evaluations of the metric.

usage: mistere bench bootstrap_speed

2,000 resamples of 2,600 utterances in 260 dialogues with 7 labels: weighted F1 with its interval, and the paired difference of
two models. The ratio compares all resamples with 2,000 separate evaluations.
"""

from __future__ import annotations

import time

import numpy as np

from mistere.metrics.classification import DialogueBootstrap, confusion, weighted_f1

RESAMPLES, UTTERANCES, CLASSES = 2000, 2600, 7


def main() -> None:
    """Measure and print."""
    draw = np.random.default_rng(5)
    dialogues = [f"d{index // 10}" for index in range(UTTERANCES)]
    true, one, other = draw.integers(0, CLASSES, (3, UTTERANCES))
    clock = time.perf_counter()
    bootstrap = DialogueBootstrap(dialogues, RESAMPLES, seed=0)
    bootstrap.weighted_f1(true, one, CLASSES)
    bootstrap.weighted_f1_difference(true, one, other, CLASSES)
    resampled = time.perf_counter() - clock
    clock = time.perf_counter()
    for _ in range(RESAMPLES):
        for predicted in (one, one, other):
            weighted_f1(confusion(true, predicted, CLASSES))
    separate = time.perf_counter() - clock
    print(f"{RESAMPLES:,} resamples of {UTTERANCES:,} utterances, interval and difference: {resampled:.2f} s")
    print(f"as many separate evaluations: {separate:.2f} s; resampling takes {resampled / separate:.2f} of that")


if __name__ == "__main__":
    main()
