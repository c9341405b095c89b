"""Explanations: how much longer a request takes with ``detail: explain``, by the number of turns, as ratios of one run.

usage: mistere bench explanation [--bundle BUNDLE] [--output DIR] [--turns 1,5,10,20,40] [--rounds 12] [--calls 3]

One client, one request at a time, raw text and audio. Two predictors of one bundle: one keeps vectors, as in a live conversation, so
that only the mixture runs; the other encodes every request. Requests with and without an explanation alternate in every round.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from mistere.data.dataset import Utterance
from tests.bench.serve import median_ms, spread
from tests.bench.shared.requests import Send, rest_sender, v1_body, versions
from tests.bench.shared.served_bundle import bundle_and_example, bundle_parser
from tests.bench.shared.servers import predictor

_PATH = "/v1/models/mistere:predict"


def bodies_of(dialogue: Sequence[Utterance]) -> dict[str, bytes]:
    """The request without and with an explanation."""
    plain = json.loads(v1_body(dialogue))
    return {
        "without": json.dumps(plain).encode(),
        "with": json.dumps({**plain, "parameters": {"detail": "explain"}}).encode(),
    }


def compare(what: str, senders: dict[str, Send], rounds: int, calls: int) -> None:
    """Alternate the arms and print the ratio."""
    for send in senders.values():
        median_ms(send, 3)
    taken: dict[str, list[float]] = {name: [] for name in senders}
    for _ in range(rounds):
        for name, send in senders.items():
            taken[name].append(median_ms(send, calls))
    without, explained = np.array(taken["without"]), np.array(taken["with"])
    print(
        f"{what}: {np.median(without):.1f} ms without, {np.median(explained):.1f} ms with an explanation: "
        f"{spread(explained / without, 'x')}",
        flush=True,
    )


def main() -> None:
    parser = bundle_parser(__doc__)
    parser.add_argument("--turns", type=lambda text: [int(part) for part in text.split(",")], default="1,5,10,20,40")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--calls", type=int, default=3, help="requests of an arm in a round")
    arguments = parser.parse_args()
    bundle, example = bundle_and_example(arguments)
    longest = max(arguments.turns)
    turns = [turn for version in versions(example, -(-longest // len(example))) for turn in version]
    with predictor(bundle) as keeping, predictor(bundle, "--vector-store-mib", "0") as encoding:
        for count in arguments.turns:
            bodies = bodies_of(turns[:count])
            for what, server in (("vectors kept", keeping), ("encoded anew", encoding)):
                senders = {name: rest_sender(server.port, _PATH, [body]) for name, body in bodies.items()}
                compare(f"{count} turns, {what}", senders, arguments.rounds, arguments.calls)


if __name__ == "__main__":
    main()
