"""Training on an idle and on a loaded machine, by how long OpenMP threads spin while they wait, as ratios.

usage: mistere bench thread_contention [--load N] [--epochs E] [--rounds R]

Trains a small mixture on random embeddings of MELD-like dialogues, each variant in a process of its own: one thread, two
threads with the runtime's default (they spin for long), two that sleep at once, and two with the project's setting (they spin
for a moment, then sleep; see mistere/common/processes/threads.py). Each variant runs without and with N busy processes beside it; they end with the
benchmark, and after ten minutes at the latest. Variants take turns; the figures are medians over the rounds. "Idle" means
without the benchmark's own load: the load average is printed, because other processes on the machine count too.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mistere.common.processes.threads import WAITING_VARIABLES, limit_spinning

VARIANTS = {
    "1 thread": (1, "spinning"),
    "2 threads, spinning": (2, "spinning"),
    "2 threads, sleeping": (2, "sleeping"),
    "2 threads, as set here": (2, "limited"),
}
"""Name → number of threads, how they wait."""
LOAD_SECONDS = 600
SPIN = f"import time\nend = time.monotonic() + {LOAD_SECONDS}\nwhile time.monotonic() < end: pass"


def train_epochs(threads: int, waiting: str, epochs: int) -> None:
    """Train in this process; print the wall-clock and CPU seconds of an epoch, after one for warming up."""
    if waiting == "sleeping":
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    elif waiting == "limited":
        limit_spinning()
    import torch

    from mistere.config.mixture import MixtureConfig
    from mistere.model.mixture.fitting.batches import dialogue_batches
    from mistere.model.mixture.training import MixtureTraining
    from tests.bench.training_speed import embeddings, lengths_like

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    data = embeddings(lengths_like("MELD-like", 24), 64)
    training = MixtureTraining(MixtureConfig(hidden=32, fusion_width=64), data)
    training.model.train()
    groups = dialogue_batches(data.split("train"), 8, random.Random(0))
    for epoch in range(epochs + 1):
        if epoch == 1:
            wall, cpu = time.perf_counter(), time.process_time()
        for group in groups:
            training.train_step(group)
    print((time.perf_counter() - wall) / epochs, (time.process_time() - cpu) / epochs)


def measure(name: str, epochs: int) -> tuple[float, float]:
    """Wall-clock and CPU seconds of an epoch of one variant, in a process without a wait policy of the caller's."""
    environment = {
        key: value for key, value in os.environ.items() if key not in (*WAITING_VARIABLES, "OMP_NUM_THREADS")
    }
    command = [sys.executable, __file__, "--variant", name, "--epochs", str(epochs)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    wall, cpu = map(float, done.stdout.split())
    return wall, cpu


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keep ``count`` processes computing inside the context."""
    processes = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main() -> None:
    """Measure every variant without and with load."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--load", type=int, default=3 * (os.cpu_count() or 1), help="number of busy processes")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variant", choices=list(VARIANTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        train_epochs(*VARIANTS[options.variant], options.epochs)
        return
    for load in (0, options.load):
        figures: dict[str, list[tuple[float, float]]] = {name: [] for name in VARIANTS}
        with busy_processes(load):
            for _ in range(options.rounds):
                for name, measured in figures.items():
                    measured.append(measure(name, options.epochs))
            average = os.getloadavg()[0]
        print(f"\n{load} busy processes beside it (load average of the machine: {average:.1f}), an epoch:")
        medians = {
            name: [statistics.median(values) for values in zip(*measured, strict=True)]
            for name, measured in figures.items()
        }
        base_wall, base_cpu = medians["1 thread"]
        for name, (wall, cpu) in medians.items():
            ratios = f"({wall / base_wall:.2f}x and {cpu / base_cpu:.2f}x of one thread)"
            print(f"  {name:<23} {wall:7.2f} s, CPU {cpu:6.2f} s {ratios}", flush=True)


if __name__ == "__main__":
    main()
