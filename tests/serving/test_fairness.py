"""Work is queued, priced and limited by seconds of audio and tokens; a long request does not hold up small ones."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from mistere.model.inference import load_bundle
from mistere.predictor.encoding.encoder import CachedEncoder
from mistere.predictor.errors import RequestError
from mistere.predictor.protocol.codec import RequestTurn
from mistere.predictor.scheduling import slices as module
from mistere.predictor.scheduling.batcher import Batcher
from mistere.predictor.scheduling.pace import Pace
from mistere.predictor.scheduling.slices import SliceQueue
from mistere.predictor.settings import Limits
from tests.serving.conftest import Server, wait_for_depth
from tests.serving.faulty_server import HOLD
from tests.serving.test_batching import Work, until
from tests.serving.test_errors import HI, audio, call, clip, infer, message, refused, tensor

LONG = 1000
"""Characters of a text that is encoded in slices: 250 tokens, as much as 10 seconds of audio."""


def test_a_long_request_does_not_hold_up_small_ones(faulty: Server, tmp_path: Path) -> None:
    held = f"{HOLD}{tmp_path / 'release'}".ljust(LONG)
    with ThreadPoolExecutor(1) as pool:
        try:
            long = pool.submit(infer_patiently, faulty, held)
            wait_for_depth(faulty, 1)
            for _ in range(3):
                assert infer(faulty, HI).status_code == 200
            assert not long.done()
        finally:
            (tmp_path / "release").touch()
        assert long.result().status_code == 200


def infer_patiently(server: Server, text: str) -> httpx.Response:
    body = {"inputs": [tensor("text", [text])]}
    return httpx.post(f"{server.url}/v2/models/mistere/infer", json=body, timeout=120)


def test_an_internal_error_in_a_slice_is_500(faulty: Server) -> None:
    response = infer(faulty, tensor("text", ["crash", "x" * LONG]))
    refused(response, 500)
    assert infer(faulty, HI).status_code == 200


def test_text_and_audio_of_a_request_are_limited_together_and_the_metadata_says_so(server: Server) -> None:
    limits = Limits()
    properties = httpx.get(f"{server.url}/v2/models/mistere").json()["properties"]
    assert properties["limit.request_tokens"] == str(limits.request_tokens)
    assert properties["limit.request_seconds"] == str(limits.request_seconds)
    assert properties["limit.utterance_seconds"] == "5.0"  # as the fixture starts it
    half = "ab " * (limits.request_tokens * 2 // 3)
    assert infer(server, tensor("text", [half, half[:-9] + "again"])).status_code == 200
    refused(infer(server, tensor("text", [half + "new", half + "newer"])), 413, str(limits.request_tokens))
    assert infer(server, tensor("text", [half, half[:-9] + "again", "new"])).status_code == 200  # the rest is cached
    long = clip(5.0, 8000, "FLAC", pitch=0)
    recordings = [long[:-1] + bytes([number]) for number in range(128)]
    refused(infer(server, audio(*recordings)), 413, "600 seconds", "then the whole dialogue")
    assert call(server, message(recordings, name="audio")).code().name == "RESOURCE_EXHAUSTED"


@dataclass
class Part:
    name: str
    price: float
    is_needless: bool = False


def parts(name: str, *prices: float) -> list[Part]:
    return [Part(name, price) for price in prices]


class Slices:
    """A computation that records its slices, each of which waits for permission."""

    def __init__(self) -> None:
        self.computed: list[list[Part]] = []
        self.begun, self.permitted = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, work: Sequence[Part]) -> None:
        self.computed.append(list(work))
        self.begun.release()
        assert self.permitted.acquire(timeout=300)
        if any(part.name == "bad" for part in work):
            raise RuntimeError("bad")

    @property
    def names(self) -> list[str]:
        return ["+".join(sorted({part.name for part in work})) for work in self.computed]


@pytest.fixture
def fixed_pace(monkeypatch: pytest.MonkeyPatch) -> Pace:
    """A pace that stays: ten seconds of audio a second, so that a slice is eight."""
    pace = Pace(0.1)
    monkeypatch.setattr(pace, "observe", lambda price, seconds: None)
    return pace


def test_between_slices_a_cheaper_request_gets_its_turn(fixed_pace: Pace) -> None:
    async def go() -> list[str]:
        work = Slices()
        queue: SliceQueue[Part] = SliceQueue(work, fixed_pace, 1000)
        long = asyncio.create_task(queue.run(parts("long", *[8.0] * 5)))
        await until(lambda: len(work.computed) == 1)
        cheap = asyncio.create_task(queue.run(parts("cheap", 8.0)))
        cancelled = asyncio.create_task(queue.run(parts("cancelled", 8.0)))
        await until(lambda: queue.depth == 3)
        cancelled.cancel()
        work.permitted.release()
        work.permitted.release()
        await cheap
        assert not long.done() and queue.depth == 1
        for _ in range(4):
            work.permitted.release()
        await long
        return work.names

    assert asyncio.run(go()) == ["long", "cheap", *["long"] * 4]


def test_an_expensive_request_is_not_overtaken_for_ever(fixed_pace: Pace) -> None:
    arrivals = [fixed_pace.turn(seconds, 8.0) for seconds in range(20)]
    assert [turn < fixed_pace.turn(0.0, 40.0) for turn in arrivals] == [True] * 13 + [False] * 7


def test_parts_of_several_requests_share_a_slice_and_a_bad_one_fails_alone(fixed_pace: Pace) -> None:
    async def go() -> tuple[list[str], list[Any]]:
        work = Slices()
        for _ in range(10):
            work.permitted.release()
        queue: SliceQueue[Part] = SliceQueue(work, fixed_pace, 1000)
        requests = [
            queue.run(parts("a", 1.0, 2.0)),
            queue.run(parts("bad", 3.0)),
            queue.run(parts("c", 30.0)),
            queue.run([]),
        ]
        answers = await asyncio.gather(*requests, return_exceptions=True)
        return work.names, answers

    names, answers = asyncio.run(go())
    assert names == ["a+bad", "a", "bad", "c"]
    assert [type(answer) for answer in answers] == [type(None), RuntimeError, type(None), type(None)]


def test_the_rest_of_a_request_that_fails_is_dropped(fixed_pace: Pace) -> None:
    async def go() -> list[str]:
        work = Slices()
        queue: SliceQueue[Part] = SliceQueue(work, fixed_pace, 1000)
        pieces = parts("a", *[8.0] * 5)
        task = asyncio.create_task(queue.run(pieces))
        await until(lambda: len(work.computed) == 1)
        for piece in pieces:
            piece.is_needless = True
        work.permitted.release()
        await task
        return work.names

    assert asyncio.run(go()) == ["a"]


def test_the_queue_is_bounded_by_price_but_takes_any_request_when_it_is_empty(fixed_pace: Pace) -> None:
    async def go() -> None:
        work = Slices()
        queue: SliceQueue[Part] = SliceQueue(work, fixed_pace, 100)
        first = asyncio.create_task(queue.run(parts("a", *[50.0] * 5)))
        await until(lambda: len(work.computed) == 1)
        with pytest.raises(RequestError) as refusal:
            await queue.run(parts("b", 9.0))
        assert (
            refusal.value.code == 429 and int(refusal.value.headers["Retry-After"]) == 20
        )  # 200 s are left, ten a second
        for _ in range(5):
            work.permitted.release()
        await first
        work.permitted.release()
        await queue.run(parts("b", 9.0))

    asyncio.run(go())


def test_a_batch_is_bounded_by_price_and_takes_cheap_requests_first(fixed_pace: Pace) -> None:
    async def go() -> list[list[str]]:
        work = Work()
        work.gate.clear()
        batcher: Batcher[str, str] = Batcher(work, 20, 0.0, 100, pace=fixed_pace, max_price=60)
        tasks = [asyncio.create_task(batcher.run("first", 1))]
        await until(lambda: work.batches == [["first"]])
        for name, price in (("a", 10.0), ("b", 10.0), ("c", 10.0), ("text", 0.1)):
            tasks.append(asyncio.create_task(batcher.run(name, 1, price)))
        await until(lambda: batcher.depth == 5)
        with pytest.raises(RequestError):
            await batcher.run("more", 1, 40.0)
        tasks.append(asyncio.create_task(batcher.run("admitted", 1, 40.0, admitted=True)))
        await until(lambda: batcher.depth == 6)
        work.gate.set()
        await asyncio.gather(*tasks)
        return work.batches

    assert asyncio.run(go()) == [["first"], ["text", "a"], ["b"], ["c"], ["admitted"]]


def test_the_pace_follows_the_machine() -> None:
    pace = Pace(0.01)
    for _ in range(50):
        pace.observe(10.0, 1.0)
    assert pace.seconds(10.0) == pytest.approx(1.0, rel=0.01)
    pace.observe(0.5, 100.0)  # too little to tell
    assert pace.price_within(2.0, 8.0) == pytest.approx(20.0, rel=0.01) and pace.price_within(0.1, 8.0) == 8.0


def test_work_that_costs_less_than_its_price_does_not_quicken_the_pace(
    bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    observed: list[float] = []
    pace = Pace()
    monkeypatch.setattr(pace, "observe", lambda seconds_of_audio, _: observed.append(seconds_of_audio))
    model = load_bundle(bundle)
    encoder = CachedEncoder(model, Limits(), pace)
    tone = clip(4.0, 8000, "FLAC")
    for turn in (
        RequestTurn(text="word " * 20_000),  # of which the encoder reads max_tokens
        RequestTurn(audio=tone[: len(tone) // 8]),  # does not decode; the header says 4 s
        RequestTurn(audio=tone),
    ):
        plan = encoder.plan([[turn]])
        encoder.price_clips(plan)
        assert plan.price == pytest.approx(model.max_tokens / 25 if turn.text else 4.0)
        encoder.compute(plan.missing())
    text, broken, whole = observed
    assert text <= model.max_tokens / 25
    assert broken < 1 and whole == pytest.approx(4.0, abs=0.1)


@pytest.mark.skipif(not hasattr(module.os, "setpriority"), reason="this system has no priorities")
def test_slices_run_at_a_lower_priority_than_the_rest(fixed_pace: Pace) -> None:
    import os

    seen: list[int] = []
    queue: SliceQueue[Part] = SliceQueue(
        lambda _: seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id())), fixed_pace, 100
    )
    asyncio.run(queue.run(parts("a", 1.0)))
    assert seen[0] > os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
