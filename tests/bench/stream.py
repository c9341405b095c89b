"""Live audio: how long after the end of a turn its answer arrives, with many calls at once in real time.

usage: mistere bench stream [--bundle BUNDLE] [--output DIR] [--calls 100] [--seconds 60]

Each call is a WebSocket of one channel that plays the recordings of the bundle's example dialogue in another order and with another
gain, so that no vector of another call is cached, with a second of silence between two. Calls begin spread over five seconds. A turn
ends, for the client, with the piece of audio that completes the silence; the silence itself (600 ms) is not counted. Server
and clients share this machine's cores.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence

import numpy as np
from websockets.asyncio.client import connect

from mistere.common.counting import counted
from mistere.data.audio import decode, resample
from mistere.predictor.stream.turns import RATE, ChannelSplitter
from tests.bench.shared.served_bundle import bundle_and_example, bundle_parser
from tests.bench.shared.servers import predictor

_PIECE = RATE // 10
_SILENCE = RATE
_SPREAD_SECONDS = 5.0
_REFUSED = 429


def played(clips: Sequence[np.ndarray], call: int, seconds: float) -> list[bytes]:
    """The audio of a call, in pieces of 0.1 s."""
    draw = np.random.default_rng(call)
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < seconds * RATE:
        clip = clips[int(draw.integers(len(clips)))] * draw.uniform(0.5, 1.0)
        parts += [np.zeros(_SILENCE, np.float32), clip]
    wave = (np.concatenate([*parts, np.zeros(_SILENCE, np.float32)]) * 32767).astype("<i2")
    return [wave[at : at + _PIECE].tobytes() for at in range(0, len(wave), _PIECE)]


def ends_of(pieces: Sequence[bytes]) -> list[int]:
    """The piece that ends each turn."""
    splitter = ChannelSplitter(1, 0.6, 30.0)
    return [number for number, piece in enumerate(pieces) for _ in splitter.add(piece)]


async def call(url: str, pieces: Sequence[bytes], delay: float) -> tuple[list[float], int]:
    """Make a call; returns the seconds from the end of each turn to its answer, and the number of refused turns."""
    await asyncio.sleep(delay)
    ends = ends_of(pieces)
    waits: list[float] = []
    sent: list[float] = []
    async with connect(url, compression=None, proxy=None, ping_interval=None) as stream:
        await stream.send(json.dumps({"type": "start"}))
        await stream.recv()

        async def listen() -> int:
            """Receive the answers; returns the number of turns that were refused because too many requests waited.

            Raises:
                SystemExit: a turn could not be answered for another reason.
            """
            refused = 0
            async for text in stream:
                message = json.loads(text)
                if message["type"] == "turn" and message["turn"] < len(ends):  # others are ended by the end of the call
                    waits.append(time.perf_counter() - sent[ends[message["turn"]]])
                if message["type"] == "error" and message["code"] != _REFUSED:
                    raise SystemExit(f"a turn got code {message['code']}: {message['error']}")
                refused += message["type"] == "error"
            return refused

        listening = asyncio.create_task(listen())
        begin = time.perf_counter()
        for number, piece in enumerate(pieces):
            await asyncio.sleep(max(0.0, begin + number * 0.1 - time.perf_counter()))
            sent.append(time.perf_counter())
            await stream.send(piece)
        await stream.send(json.dumps({"type": "end"}))
        return waits, await listening


async def calls(port: int, clips: Sequence[np.ndarray], number: int, seconds: float) -> tuple[list[float], int, float]:
    """Make calls at once; returns all waits, the number of refused turns, and the seconds of audio."""
    audio = [played(clips, each, seconds) for each in range(number)]
    url = f"ws://127.0.0.1:{port}/v1/stream"
    results = await asyncio.gather(
        *(call(url, pieces, _SPREAD_SECONDS * each / number) for each, pieces in enumerate(audio))
    )
    waits = [wait for each, _ in results for wait in each]
    return waits, sum(refused for _, refused in results), sum(len(pieces) for pieces in audio) * 0.1


def main() -> None:
    parser = bundle_parser(__doc__)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of a call")
    options = parser.parse_args()
    bundle, example = bundle_and_example(options)
    clips = [resample(*decode(turn.audio), RATE) for turn in example if turn.audio]
    with predictor(bundle, "--max-streams", str(options.calls)) as server:
        before = server.cpu_seconds()
        waits, refused, audio = asyncio.run(calls(server.port, clips, options.calls, options.seconds))
        used = server.cpu_seconds() - before
        memory = server.resident_mb()
    p50, p99 = np.quantile(waits, (0.5, 0.99)) * 1000
    turns = len(waits) + refused
    print(
        f"{counted(options.calls, 'call')}, {counted(turns, 'turn')}, refused {refused} ({100 * refused / turns:.1f} %)"
    )
    print(f"answer after the end of a turn: p50 {p50:.0f} ms, p99 {p99:.0f} ms")
    print(f"real-time factor (CPU time of the server by audio): {used / audio:.4f}; resident {memory:.0f} MB")


if __name__ == "__main__":
    main()
