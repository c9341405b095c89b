"""Encoding a request with a core for each batch, compared with all cores in each operation, on an idle and on a busy machine.

usage: mistere bench encoder_threads [--bundle BUNDLE] [--output DIR] [--load 2] [--rounds 5]

Encodes the bundle's example dialogue, and its first utterance alone as the next turn of a conversation, in both ways in turn. "Beside"
are processes that compute without end, and end with the benchmark.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np

from mistere.common.processes.threads import limit_spinning, usable_cores
from tests.bench.shared.served_bundle import bundle_and_example, bundle_parser
from tests.bench.thread_contention import busy_processes


def seconds(call: Callable[[], object], calls: int) -> float:
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def main() -> None:
    parser = bundle_parser(__doc__)
    parser.add_argument("--load", type=int, default=usable_cores(), help="number of busy processes")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    limit_spinning()  # as the predictor does, before PyTorch is imported
    bundle, example = bundle_and_example(arguments)
    from mistere.model.inference import load_bundle

    model = load_bundle(bundle)
    prepared = {
        name: [model.features(name, example, index) for index in range(len(example))] for name in model.embedders
    }
    for load in (0, arguments.load):
        with ExitStack() as stack:
            stack.enter_context(busy_processes(load))
            for count in (1, len(example)):
                features = {name: each[:count] for name, each in prepared.items()}
                ratios, each_core = [], []
                for _ in range(arguments.rounds):
                    together = seconds(
                        lambda features=features: [  # type: ignore[misc]
                            model.embedders[name]._begin(each, None)() for name, each in features.items()
                        ],
                        5,
                    )
                    each_core.append(seconds(lambda features=features: model.vectors(features), 5))  # type: ignore[misc]
                    ratios.append(together / each_core[-1])
                low, middle, high = np.quantile(ratios, (0, 0.5, 1))
                print(
                    f"beside {load} processes, {count} utterances: {1000 * np.median(each_core):.1f} ms; all cores in each operation "
                    f"take {middle:.2f}x ({low:.2f} to {high:.2f} in {arguments.rounds} rounds)",
                    flush=True,
                )


if __name__ == "__main__":
    main()
