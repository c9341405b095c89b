"""What a turn of a long dialogue costs: one request at a time, without caches, of 16, 32, 64 and 128 turns.

usage: mistere bench dialogue_length [--bundle BUNDLE] [--output DIR] [--rounds 12] [--raw-rounds 3]

The dialogue repeats the bundle's example with other words and another gain. Vectors are sent by gRPC and as JSON, beside a bare loop
over the model in this process; texts and recordings by gRPC. All lengths alternate in a round, and a ratio is of the same round: the time
for each turn, compared with a dialogue of 16 turns. It is about 1 if time grows linearly, and below it where what is done once
counts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence

import numpy as np
from kserve import InferInput, InferRequest

from mistere.data.dataset import Utterance
from mistere.model.inference import load_bundle
from tests.bench.shared.requests import embedded_request, grpc_sender, rest_sender, versions
from tests.bench.shared.served_bundle import bundle_and_example, bundle_parser
from tests.bench.shared.servers import predictor

LENGTHS = (16, 32, 64, 128)
UNCACHED = ("--vector-store-mib", "0", "--audio-store-mib", "0")


def raw_request(dialogue: Sequence[Utterance]) -> bytes:
    """The texts and recordings of a dialogue, as a message of gRPC."""
    tensors = []
    for name, column in (
        ("text", [(turn.text or "").encode() for turn in dialogue]),
        ("audio", [turn.audio or b"" for turn in dialogue]),
    ):
        if any(column):
            tensor = InferInput(name, [len(column)], "BYTES")
            tensor.set_data_from_numpy(np.array(column, object), binary_data=True)
            tensors.append(tensor)
    return bytes(InferRequest("mistere", tensors).to_grpc().SerializeToString())


def json_request(request: InferRequest, vectors: dict[str, np.ndarray]) -> bytes:
    """The vectors of a dialogue as JSON."""
    inputs = [
        {"name": f"{name}_embedding", "shape": list(rows.shape), "datatype": "FP32", "data": rows.ravel().tolist()}
        for name, rows in vectors.items()
    ]
    return json.dumps({"parameters": request.parameters, "inputs": inputs}).encode()


def milliseconds(send: Callable[[int], object]) -> float:
    start = time.perf_counter()
    send(0)
    return 1000 * (time.perf_counter() - start)


def compare(what: str, arms: dict[int, Callable[[int], object]], rounds: int) -> None:
    """Measure the arms of all lengths in turn, and print the time for each turn."""
    for send in arms.values():
        send(0)
    taken = np.array([[milliseconds(send) / turns for turns, send in arms.items()] for _ in range(rounds)])
    ratios = taken / taken[:, :1]
    print(f"{what}, {rounds} rounds:")
    for turns, each, ratio in zip(arms, taken.T, ratios.T, strict=True):
        print(
            f"  {turns:4d} turns: {np.median(each):.3f} ms a turn, {np.median(ratio):.2f}x that of {min(arms)} turns "
            f"({ratio.min():.2f} to {ratio.max():.2f})",
            flush=True,
        )


def main() -> None:
    parser = bundle_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--raw-rounds", type=int, default=3, help="of texts and recordings")
    arguments = parser.parse_args()
    bundle, example = bundle_and_example(arguments)
    model = load_bundle(bundle)
    repeated = versions(example, -(-max(LENGTHS) // len(example)))
    longest = [turn for dialogue in repeated for turn in dialogue][: max(LENGTHS)]
    rows = model.embed([longest])[0]
    vectors = {turns: {name: each[:turns] for name, each in rows.items()} for turns in LENGTHS}
    requests = {turns: embedded_request(model, vectors[turns]) for turns in LENGTHS}
    raw = {turns: raw_request(longest[:turns]) for turns in LENGTHS}
    with predictor(bundle, *UNCACHED, "--max-request-mib", "64") as server:
        bare: dict[int, Callable[[int], object]] = {
            turns: lambda _, each=vectors[turns]: model.predict_embeddings([each])  # type: ignore[misc]
            for turns in LENGTHS
        }
        compare("bare loop over the mixture", bare, arguments.rounds)
        compare(
            "vectors by gRPC",
            {
                turns: grpc_sender(server.grpc_port, [each.to_grpc().SerializeToString()])
                for turns, each in requests.items()
            },
            arguments.rounds,
        )
        compare(
            "vectors as JSON",
            {
                turns: rest_sender(server.port, "/v2/models/mistere/infer", [json_request(each, vectors[turns])])
                for turns, each in requests.items()
            },
            arguments.rounds,
        )
        compare(
            f"texts and recordings by gRPC ({len(raw[max(LENGTHS)]) / 2**20:.1f} MiB for {max(LENGTHS)} turns)",
            {turns: grpc_sender(server.grpc_port, [each]) for turns, each in raw.items()},
            arguments.raw_rounds,
        )


if __name__ == "__main__":
    main()
