"""Serving speed: the predictor's overhead over the model, the gain of batching and the embedding cache, and other servers.

usage: mistere bench serving_speed [--bundle BUNDLE] [--output DIR] [--seconds 8] [--parts overhead,throughput,conversation,start,others] [--turns 30] [--mlserver PYTHON] [--soak MINUTES]

Servers are separate processes on this machine. One client process sends prepared requests over 16 loopback connections.
Dialogues are variants of the bundle's example with other words and another gain, so that caches are hit only where the cache
is measured. Every figure is a ratio or a difference of arms that alternate within one run.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mistere.data.dataset import Utterance
from mistere.model.dialogue_model import EmotionModel
from mistere.model.inference import load_bundle
from tests.bench.reference import mlserver_runtime
from tests.bench.shared.requests import Send, embedded_request, grpc_sender, rest_sender, v1_body, versions
from tests.bench.shared.served_bundle import bundle_and_example, bundle_parser
from tests.bench.shared.servers import Running, free_port, predictor, running

CLIENTS = 16
_OVERHEAD_TURNS = 40
"""Turns of a quarter of a second: the machine's own pace changes within seconds, by as much as what is measured."""
ROOT = Path(__file__).resolve().parents[2]


def sequential_seconds(send: Send, seconds: float) -> np.ndarray:
    """Seconds of each request of a single client."""
    for number in range(20):
        send(number)
    durations = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        start = time.perf_counter()
        send(len(durations))
        durations.append(time.perf_counter() - start)
    return np.array(durations)


def concurrent_rate(send: Send, seconds: float, clients: int = CLIENTS) -> tuple[float, np.ndarray]:
    """Requests per second of many clients, and the seconds of each request."""
    durations: list[list[float]] = [[] for _ in range(clients)]
    start = threading.Barrier(clients + 1)
    until = [0.0]

    def work(client: int) -> None:
        send(client)
        start.wait()
        number = client
        while (before := time.perf_counter()) < until[0]:
            send(number)
            durations[client].append(time.perf_counter() - before)
            number += clients

    threads = [threading.Thread(target=work, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    until[0] = time.perf_counter() + 3600
    start.wait()
    begun = time.perf_counter()
    until[0] = begun + seconds
    for thread in threads:
        thread.join()
    every = np.array([one for each in durations for one in each])
    return len(every) / (time.perf_counter() - begun), every


def overhead(bundle: str, model: EmotionModel, vectors: dict[str, np.ndarray], seconds: float) -> None:
    request = embedded_request(model, vectors)
    message = request.to_grpc().SerializeToString()
    body, length = request.to_rest()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(length)}
    plain = json.dumps(
        {
            "parameters": request.parameters,
            "inputs": [
                {
                    "name": f"{name}_embedding",
                    "shape": list(rows.shape),
                    "datatype": "FP32",
                    "data": rows.ravel().tolist(),
                }
                for name, rows in vectors.items()
            ],
        }
    ).encode()
    with predictor(bundle) as server:
        path = "/v2/models/mistere/infer"
        senders: dict[str, Send] = {
            "bare": lambda _: model.predict_embeddings([vectors]) and None,  # type: ignore[func-returns-value]
            "gRPC": grpc_sender(server.grpc_port, [message]),
            "REST, binary": rest_sender(server.port, path, [bytes(body)], headers),
            "REST, JSON": rest_sender(server.port, path, [plain]),
        }
        durations: dict[str, list[np.ndarray]] = {name: [] for name in senders}
        for _ in range(_OVERHEAD_TURNS):
            for name, send in senders.items():
                durations[name].append(1000 * sequential_seconds(send, 1.25 * seconds / _OVERHEAD_TURNS))
    middle = {name: np.array([np.median(each) for each in turns]) for name, turns in durations.items()}
    bare = middle.pop("bare")
    print(f"bare mixture, {len(next(iter(vectors.values())))} utterances as vectors: p50 {np.median(bare):.2f} ms")
    for name, each in middle.items():
        more = each - bare
        p99 = np.quantile(np.concatenate(durations[name]), 0.99)
        print(
            f"  {name:<13} p50 {np.median(each):6.2f} ms (+{np.median(more):.2f}; half of {len(more)} turns from "
            f"{np.quantile(more, 0.25):.2f} to {np.quantile(more, 0.75):.2f}), p99 {p99:6.2f} ms"
        )


def alternating_rates(
    arms: dict[str, tuple[Running, Send]], seconds: float, turns: int = 5
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Requests per second and CPU milliseconds per request in each round; alternating spreads machine load evenly."""
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    for _ in range(turns):
        for name, (server, send) in arms.items():
            before = server.cpu_seconds()
            rate, durations = concurrent_rate(send, seconds / 2)
            # Each client's first request, before the round, is in the CPU time too.
            used = (server.cpu_seconds() - before) / (len(durations) + CLIENTS)
            measured[name].append((rate, 1000 * used))
    return {name: (np.array([r for r, _ in each]), np.array([c for _, c in each])) for name, each in measured.items()}


def throughput(bundle: str, model: EmotionModel, dialogues: list[list[Utterance]], seconds: float) -> None:
    embedded = [embedded_request(model, vectors) for vectors in model.embed(dialogues[:CLIENTS])]
    messages = [request.to_grpc().SerializeToString() for request in embedded]
    bodies = {
        "one turn of raw text and audio": [v1_body(dialogue[:1]) for dialogue in dialogues],
        f"{len(dialogues[0])} turns of raw text and audio": [v1_body(dialogue) for dialogue in dialogues],
    }
    without = ("--vector-store-mib", "0", "--audio-store-mib", "0")
    alone = ("--batch-utterances", "0")
    for what in (*bodies, "vectors"):
        options = without if what in bodies else ()
        with predictor(bundle, *options) as batched, predictor(bundle, *options, *alone) as single:
            servers = {"batched": batched, "alone": single}
            arms = {
                name: (
                    server,
                    rest_sender(server.port, "/v1/models/mistere:predict", bodies[what])
                    if what in bodies
                    else grpc_sender(server.grpc_port, messages),
                )
                for name, server in servers.items()
            }
            measured = alternating_rates(arms, seconds)
            (fast, little), (slow, much) = measured["batched"], measured["alone"]
            gain, saved = fast / slow, much / little
            print(
                f"{what}, {CLIENTS} clients: batched {np.median(fast):.1f} requests/s, alone {np.median(slow):.1f}: "
                f"{np.median(gain):.2f}x ({gain.min():.2f} to {gain.max():.2f} in {len(gain)} turns); "
                f"CPU {np.median(little):.1f} and {np.median(much):.1f} ms a request: {np.median(saved):.2f}x "
                f"({saved.min():.2f} to {saved.max():.2f})"
            )
            for name, server in servers.items():
                by_phase = ", ".join(f"{phase} {1000 * value:.1f}" for phase, value in sorted(server.phases().items()))
                print(f"  ms in each phase, {what}, {name}: {by_phase}")


def digest_body(dialogue: Sequence[Utterance]) -> bytes:
    """A dialogue as a live client resends it: the last turn's recording, and the digests of earlier ones."""
    turns = json.loads(v1_body(dialogue))["instances"][0]["utterances"]
    for turn, one in zip(turns[:-1], dialogue, strict=False):
        if one.audio:
            del turn["audio"]
            turn["audio_digest"] = hashlib.sha256(one.audio).hexdigest()
    return json.dumps({"instances": [{"utterances": turns}]}).encode()


def conversation(bundle: str, dialogue: Sequence[Utterance], turns: int) -> None:
    long = [one for version in versions(dialogue, -(-turns // len(dialogue))) for one in version][:turns]
    for how, body in (
        ("recordings sent once, then their digests", digest_body),
        ("every recording sent again", v1_body),
    ):
        bodies = [body(long[: turn + 1]) for turn in range(turns)]
        durations: dict[str, list[float]] = {"kept": [], "not kept": []}
        for _ in range(5):
            for name, options in (("kept", ()), ("not kept", ("--vector-store-mib", "0"))):
                with predictor(bundle, *options) as server:
                    send = rest_sender(server.port, "/v1/models/mistere:predict", bodies)
                    start = time.perf_counter()
                    for turn in range(turns):
                        send(turn)
                    durations[name].append(time.perf_counter() - start)
        gain = np.array(durations["not kept"]) / np.array(durations["kept"])
        print(
            f"a conversation of {turns} turns, turn by turn, {how}: {np.median(durations['not kept']):.2f} s, "
            f"{np.median(durations['kept']):.2f} s with vectors kept: {np.median(gain):.1f}x "
            f"({gain.min():.1f} to {gain.max():.1f} in {len(gain)} runs)"
        )


def start_up(bundle: str) -> None:
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        with predictor(bundle):
            times.append(time.perf_counter() - begun)
    print(f"start to ready: {min(times):.1f} to {max(times):.1f} s")


@contextmanager
def mlserver(python: str, bundle: str) -> Iterator[int]:
    """MLServer in its own environment, with this environment's packages after its own in the path."""
    port, grpc_port = free_port(), free_port()
    own = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    path = os.pathsep.join([str(ROOT), own, sysconfig.get_paths()["purelib"]])
    with tempfile.TemporaryDirectory() as folder:
        mlserver_runtime.write_settings(Path(folder), bundle, port, grpc_port)
        command = [python, "-m", "mlserver.cli.main", "start", folder]
        environment = {**os.environ, "PYTHONPATH": path, "MISTERE_MLSERVER": "1"}
        with running(command, port, "/v2/models/mistere/ready", environment):
            yield port


def others(bundle: str, dialogues: list[list[Utterance]], seconds: float, mlserver_python: str | None) -> None:
    bodies = [v1_body(dialogue) for dialogue in dialogues]
    measured: dict[str, list[tuple[float, float]]] = {}
    for _ in range(2):
        if mlserver_python:
            with mlserver(mlserver_python, bundle) as port:
                v2 = [mlserver_runtime.v2_body(list(dialogue)) for dialogue in dialogues]
                rate, durations = concurrent_rate(rest_sender(port, "/v2/models/mistere/infer", v2), seconds)
                measured.setdefault("MLServer", []).append((rate, float(np.quantile(durations, 0.99))))
        with predictor(bundle, "--vector-store-mib", "0", "--audio-store-mib", "0") as server:
            rate, durations = concurrent_rate(rest_sender(server.port, "/v1/models/mistere:predict", bodies), seconds)
            measured.setdefault("predictor", []).append((rate, float(np.quantile(durations, 0.99))))
        port = free_port()
        script = Path(__file__).parent / "reference" / "plain_fastapi.py"
        with running([sys.executable, str(script), bundle, str(port)], port, "/ready"):
            rate, durations = concurrent_rate(rest_sender(port, "/predict", bodies), seconds)
            measured.setdefault("plain FastAPI", []).append((rate, float(np.quantile(durations, 0.99))))
    best = {name: (max(r for r, _ in arms), min(p for _, p in arms)) for name, arms in measured.items()}
    for name, (rate, p99) in best.items():
        print(f"  {name:<14} {rate:6.1f} requests/s, p99 {1000 * p99:.0f} ms")
    ours = best.pop("predictor")
    for name, (rate, p99) in best.items():
        print(f"against {name}, raw, {CLIENTS} clients: {ours[0] / rate:.2f}x the throughput, p99 {ours[1] / p99:.2f}x")


def soak(bundle: str, dialogues: list[list[Utterance]], minutes: float) -> None:
    """Run the server at half its capacity for a while; report errors and memory."""
    bodies = [v1_body(dialogue) for dialogue in dialogues]
    with predictor(bundle) as server:
        send = rest_sender(server.port, "/v1/models/mistere:predict", bodies)
        rate, _ = concurrent_rate(send, 10)
        pause = CLIENTS / (rate / 2)

        def send_at_half_rate(number: int) -> None:
            start = time.perf_counter()
            send(number)
            time.sleep(max(0.0, pause - (time.perf_counter() - start)))

        concurrent_rate(send_at_half_rate, 30)
        before = server.resident_mb()
        done, _ = concurrent_rate(send_at_half_rate, 60 * minutes)
        after = server.resident_mb()
    print(
        f"{minutes:g} minutes at {100 * done / rate:.0f} % load: no error, memory {before:.0f} to {after:.0f} MiB "
        f"({100 * (after / before - 1):+.1f} %)"
    )


def main() -> None:
    parser = bundle_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--parts", default="overhead,throughput,conversation,start,others")
    parser.add_argument(
        "--mlserver", metavar="PYTHON", help="of an environment with mlserver, to compare with that too"
    )
    parser.add_argument("--turns", type=int, default=30, help="of the conversation")
    parser.add_argument("--soak", type=float, default=0.0, metavar="MINUTES")
    arguments = parser.parse_args()
    bundle, example = bundle_and_example(arguments)
    parts = set(arguments.parts.split(","))
    model = load_bundle(bundle)
    dialogues = versions(example, 4 * CLIENTS)
    if "overhead" in parts:
        overhead(bundle, model, model.embed([example])[0], arguments.seconds)
    if "throughput" in parts:
        throughput(bundle, model, dialogues, arguments.seconds)
    if "conversation" in parts:
        conversation(bundle, example, arguments.turns)
    if "start" in parts:
        start_up(bundle)
    if "others" in parts:
        others(bundle, dialogues, arguments.seconds, arguments.mlserver)
    if arguments.soak:
        soak(bundle, dialogues, arguments.soak)


if __name__ == "__main__":
    main()
