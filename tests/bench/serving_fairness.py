"""Fairness: how long a small request waits beside a client that sends minutes of audio in every request.

usage: mistere bench serving_fairness [--bundle BUNDLE] [--output DIR] [--seconds 10] [--rounds 5]

The other client sends 16 recordings of 29.9 seconds of near-silence in each request, about 43 KB, one request after another, 40
different ones in turn; the server keeps no vectors. Small requests are one after another, too, and new each time: a dialogue of two texts, and
one with a recording of three seconds. Rounds alone and beside the other client alternate.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from mistere.data.audio import encode_flac
from mistere.data.dataset import Utterance
from tests.bench.shared.requests import Send, rest_sender, v1_body
from tests.bench.shared.served_bundle import bundle_parser, chosen_bundle
from tests.bench.shared.servers import predictor

_RATE = 16000
_PREDICT = "/v1/models/mistere:predict"


def recording(seconds: float, level: float, number: int) -> bytes:
    """Noise at a level, different for each number."""
    noise = np.random.default_rng(number).standard_normal(int(seconds * _RATE)).astype(np.float32)
    return encode_flac(np.round(level * noise * 2**15) / np.float32(2**15), _RATE)


def minutes_of_audio(number: int) -> bytes:
    """A request of 16 recordings of near-silence: a few samples of each differ from zero."""
    turns = []
    for index in range(16):
        wave = np.zeros(int(29.9 * _RATE), dtype=np.float32)
        wave[: 16 * (1 + index) : 16] = (1 + number % 1000) / 2**15
        turns.append(Utterance("a", index, "", None, encode_flac(wave, _RATE)))
    return v1_body(turns)


def small_requests() -> dict[str, Iterator[bytes]]:
    """Kind of small request → bodies of new ones."""

    def texts() -> Iterator[bytes]:
        for number in itertools.count():
            turns = [Utterance("a", turn, "", f"Where have you been, number {number} of {turn}?") for turn in range(2)]
            yield v1_body(turns)

    def spoken() -> Iterator[bytes]:
        for number in itertools.count():
            yield v1_body([Utterance("a", 0, "", f"At home, number {number}.", recording(3.0, 0.02, number))])

    return {"two texts": texts(), "3 s of speech": spoken()}


@contextmanager
def busy(send: Send, bodies: int) -> Iterator[list[int]]:
    """A client that sends one long request after another while the context is open; counts its answers.

    Raises:
        SystemExit: a request failed; a thread on its own would end in silence, and nothing would load the server.
    """
    stop, answered = threading.Event(), [0]

    def work() -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            send(number % bodies)
            answered[0] += 1

    with ThreadPoolExecutor(1) as pool:
        client = pool.submit(work)
        time.sleep(0.5)
        try:
            yield answered
        finally:
            stop.set()
        client.result()


def durations(port: int, bodies: Iterator[bytes], seconds: float) -> list[float]:
    """Seconds of each small request; requests are made outside the measured time."""
    measured: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        body = next(bodies)
        send = rest_sender(port, _PREDICT, [body])
        start = time.perf_counter()
        send(0)
        measured.append(time.perf_counter() - start)
    return measured


def main() -> None:
    parser = bundle_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    bundle = chosen_bundle(arguments)
    long_bodies = [minutes_of_audio(number) for number in range(40)]
    print(f"long requests: {len(long_bodies[0]) / 1000:.0f} KB, {16 * 29.9:.0f} s of audio")
    # Without kept vectors, so that no recording is ever answered from the cache.
    with predictor(bundle, "--vector-store-mib", "0", "--audio-store-mib", "0") as server:
        long_client = rest_sender(server.port, _PREDICT, long_bodies)
        start = time.perf_counter()
        long_client(0)
        print(f"one long request alone: {time.perf_counter() - start:.1f} s")
        for kind, bodies in small_requests().items():
            durations(server.port, bodies, 1.0)
            alone, beside, answered = [], [], 0
            for _ in range(arguments.rounds):
                alone.append(durations(server.port, bodies, arguments.seconds))
                with busy(long_client, len(long_bodies)) as count:
                    beside.append(durations(server.port, bodies, arguments.seconds))
                answered += count[0]
            figures = {
                name: [1000 * float(np.quantile(np.concatenate(each), share)) for share in (0.5, 0.99)]
                for name, each in (("alone", alone), ("beside", beside))
            }
            ratio = figures["beside"][1] / figures["alone"][1]
            print(
                f"{kind}: alone p50 {figures['alone'][0]:.1f}, p99 {figures['alone'][1]:.1f} ms; beside the other client p50 "
                f"{figures['beside'][0]:.1f}, p99 {figures['beside'][1]:.1f} ms: p99 {ratio:.2f}x ({answered} long requests "
                f"answered in {arguments.rounds * arguments.seconds:g} s)"
            )


if __name__ == "__main__":
    main()
