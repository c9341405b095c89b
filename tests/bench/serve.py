"""The predictor's overhead: one request at a time, as ratios to a bare loop over the model and to KServe's own server with an echo model.

usage: mistere bench serve [--bundle BUNDLE] [--output DIR] [--turns 40] [--calls 30]

The model's own time is that of a loop in this process. The echo model computes nothing, so its time is that of KServe, HTTP or
gRPC, and the client. A loop that pauses before each call, as a server does between requests, shows what of the difference is the
processor's: it runs slower after a pause. A second predictor, with ``--copies``, counts no traffic. All arms alternate in one run: a ratio is of
the same turn, in which the machine has the same pace.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mistere.model.inference import load_bundle
from tests.bench.shared.requests import embedded_request, grpc_sender, rest_sender
from tests.bench.shared.served_bundle import bundle_and_example, bundle_parser
from tests.bench.shared.servers import free_port, predictor, running

PATH = "/v2/models/mistere/infer"
PAUSE = 0.003
"""Seconds between two computations of a server that answers one request at a time."""
ECHO = Path(__file__).parent / "reference" / "kserve_echo.py"


def median_ms(call: Callable[[int], object], calls: int, pause: float = 0.0) -> float:
    times = []
    for number in range(calls):
        if pause:
            time.sleep(pause)
        start = time.perf_counter()
        call(number)
        times.append(1000 * (time.perf_counter() - start))
    return float(np.median(times))


def spread(values: np.ndarray, unit: str) -> str:
    """The median, and where half of the turns lie."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return f"{middle:.2f}{unit} (half of {len(values)} turns from {low:.2f} to {high:.2f})"


def main() -> None:
    parser = bundle_parser(__doc__)
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--calls", type=int, default=30, help="requests of an arm in a turn")
    arguments = parser.parse_args()
    bundle, example = bundle_and_example(arguments)
    model = load_bundle(bundle)
    vectors = model.embed([example])[0]
    request = embedded_request(model, vectors)
    message = request.to_grpc().SerializeToString()
    body, length = request.to_rest()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(length)}
    http_port, grpc_port = free_port(), free_port()
    command = [sys.executable, str(ECHO), str(http_port), str(grpc_port)]
    with (
        predictor(bundle) as server,
        predictor(bundle, "--copies") as uncounted,
        running(command, http_port, "/v2/health/ready"),
    ):
        arms: dict[str, Callable[[int], object]] = {
            "bare": lambda _: model.predict_embeddings([vectors]),
            "paused": lambda _: model.predict_embeddings([vectors]),
            "gRPC": grpc_sender(server.grpc_port, [message]),
            "gRPC, not counted": grpc_sender(uncounted.grpc_port, [message]),
            "gRPC, echo": grpc_sender(grpc_port, [message]),
            "REST": rest_sender(server.port, PATH, [bytes(body)], headers),
            "REST, echo": rest_sender(http_port, PATH, [bytes(body)], headers),
        }
        for arm in arms.values():
            median_ms(arm, 50)
        pauses = {"paused": PAUSE}
        turns = [
            {name: median_ms(arm, arguments.calls, pauses.get(name, 0.0)) for name, arm in arms.items()}
            for _ in range(arguments.turns)
        ]
    taken = {name: np.array([turn[name] for turn in turns]) for name in arms}
    print(f"bare loop, {len(next(iter(vectors.values())))} utterances as vectors: {spread(taken['bare'], ' ms')}")
    paused = taken["paused"] - taken["bare"]
    print(
        f"the same with a pause of {1000 * PAUSE:g} ms before each call, which is not counted: +{spread(paused, ' ms')}"
    )
    for name in ("gRPC", "REST"):
        more, echo = taken[name] - taken["bare"], taken[f"{name}, echo"]
        print(f"{name}: +{spread(more, ' ms')}; {spread(taken[name] / taken['bare'], 'x')} the bare loop")
        print(
            f"  kserve.ModelServer with an echo model: {spread(echo, ' ms')}; the overhead is {spread(more / echo, 'x')} of it"
        )
    print(f"gRPC with traffic counted: {spread(taken['gRPC'] / taken['gRPC, not counted'], 'x')} as long as without")


if __name__ == "__main__":
    main()
