"""Concurrent requests are batched without changing their answers, and vectors of earlier turns are reused."""

from __future__ import annotations

import asyncio
import hashlib
import selectors
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest

from mistere.model.inference import load_bundle
from mistere.predictor.encoding.encoder import CachedEncoder
from mistere.predictor.errors import RequestError
from mistere.predictor.protocol.codec import RequestTurn
from mistere.predictor.scheduling import batcher as module
from mistere.predictor.scheduling.batcher import Batcher
from mistere.predictor.scheduling.pace import Pace
from mistere.predictor.settings import Limits
from mistere.serving.client import EndpointError
from tests.serving.conftest import Server, Utterance, clip, launch, make_bundle

Result = TypeVar("Result")


class Work:
    """A computation that records its batches and blocks while the gate is closed."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, works: Sequence[Any]) -> list[Any]:
        self.batches.append(list(works))
        assert self.gate.wait(300)
        if "poison" in works:
            raise RuntimeError("poison")
        return [ValueError(work) if work == "bad" else f"answer to {work}" for work in works]


class VirtualTime(selectors.DefaultSelector):
    """The clock of an event loop that moves to the next timer instead of waiting for it.

    Delays are exact, however loaded the machine is.
    """

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:  # without a timer, wait for the batcher's thread
            return super().select(timeout)
        events = super().select(0)
        if not events:
            self.now += timeout
        return events


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> VirtualTime:
    """The clock of the batcher and of ``run_in_virtual_time``."""
    virtual = VirtualTime()
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: virtual.now))
    return virtual


def run_in_virtual_time(clock: VirtualTime, scenario: Coroutine[Any, Any, Result]) -> Result:
    class Loop(asyncio.SelectorEventLoop):
        def time(self) -> float:
            return clock.now

    with asyncio.Runner(loop_factory=lambda: Loop(clock)) as runner:
        return runner.run(scenario)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(300):
        while not condition():
            await asyncio.sleep(0.001)


def test_a_request_to_an_idle_server_is_computed_at_once(clock: VirtualTime) -> None:
    async def go() -> float:
        batcher: Batcher[str, str] = Batcher(Work(), 4, 60.0, 100)
        start = clock.now
        assert await batcher.run("a", 1) == "answer to a"
        return clock.now - start

    assert run_in_virtual_time(clock, go()) == 0


def test_requests_that_arrive_during_a_batch_form_the_next_one_up_to_its_size() -> None:
    async def go() -> list[list[str]]:
        work = Work()
        work.gate.clear()
        batcher: Batcher[str, str] = Batcher(work, 20, 0.0, 5)
        tasks = [asyncio.create_task(batcher.run("first", 1))]
        await until(lambda: work.batches == [["first"]])
        tasks += [asyncio.create_task(batcher.run(name, 2)) for name in "abcd"]
        tasks.append(asyncio.create_task(batcher.run("large", 50)))
        await until(lambda: batcher.depth == 6)
        work.gate.set()
        assert await asyncio.gather(*tasks) == [f"answer to {name}" for name in ["first", *"abcd", "large"]]
        return work.batches

    assert asyncio.run(go()) == [["first"], ["a", "b"], ["c", "d"], ["large"]]


def test_without_batching_each_request_is_computed_alone() -> None:
    async def go() -> list[list[str]]:
        work = Work()
        batcher: Batcher[str, str] = Batcher(work, 20, 1.0, 0)
        await asyncio.gather(*(batcher.run(name, 1) for name in "abc"))
        return work.batches

    assert asyncio.run(go()) == [["a"], ["b"], ["c"]]


def test_a_batch_waits_for_requests_being_read_within_the_bound(clock: VirtualTime) -> None:
    async def go() -> tuple[list[list[str]], list[float]]:
        work = Work()
        batcher: Batcher[str, str] = Batcher(work, 20, 0.2, 100)
        seconds = []
        start = clock.now
        with batcher.reading():
            first = asyncio.create_task(batcher.run("a", 1))
            await asyncio.sleep(0.05)
            second = asyncio.create_task(batcher.run("b", 1))
            await asyncio.sleep(0)
        await asyncio.gather(first, second)
        seconds.append(clock.now - start)
        start = clock.now
        with batcher.reading():  # a client that sends slowly
            await batcher.run("c", 1)
        seconds.append(clock.now - start)
        return work.batches, seconds

    batches, seconds = run_in_virtual_time(clock, go())
    assert batches == [["a", "b"], ["c"]] and seconds == pytest.approx([0.05, 0.2])


async def generate_load(batcher: Batcher[str, str]) -> None:
    """Five rounds of three concurrent requests."""
    for _ in range(5):
        with batcher.reading():
            tasks = [asyncio.create_task(batcher.run(name, 1)) for name in "abc"]
            await asyncio.sleep(0.01)
        await asyncio.gather(*tasks)


def test_under_load_requests_that_keep_arriving_are_computed_together(clock: VirtualTime) -> None:
    async def go() -> tuple[list[list[str]], float]:
        work = Work()
        batcher: Batcher[str, str] = Batcher(work, 20, 0.5, 100)
        await generate_load(batcher)
        tasks = []
        for name in "xyz":
            last_arrival = clock.now
            tasks.append(asyncio.create_task(batcher.run(name, 1)))
            await asyncio.sleep(0.09)
        await asyncio.gather(*tasks)
        return work.batches[-2:], clock.now - last_arrival

    batches, seconds_since_last_arrival = run_in_virtual_time(clock, go())
    assert batches == [["a", "b", "c"], ["x", "y", "z"]]
    assert seconds_since_last_arrival == pytest.approx(0.5 / 5)


def test_a_single_client_is_never_delayed_and_barely_after_load(clock: VirtualTime) -> None:
    async def seconds(batcher: Batcher[str, str]) -> float:
        start = clock.now
        await batcher.run("c", 1)
        return clock.now - start

    async def go() -> tuple[list[float], list[float], float]:
        batcher: Batcher[str, str] = Batcher(Work(), 20, 0.5, 100)
        alone = [await seconds(batcher) for _ in range(3)]
        await generate_load(batcher)
        after = [await seconds(batcher) for _ in range(8)]
        await generate_load(batcher)
        await asyncio.sleep(0.6)
        return alone, after, await seconds(batcher)

    alone, after, idle = run_in_virtual_time(clock, go())
    assert alone == [0, 0, 0] and idle == 0
    assert after[0] == pytest.approx(0.5 / 5) and after[-2:] == [0, 0]


def test_fast_batches_run_on_the_event_loop_and_all_others_in_the_thread() -> None:
    threads: list[int] = []

    def compute(works: Sequence[float]) -> list[float]:
        threads.append(threading.get_ident())
        until = time.thread_time() + max(works)
        while time.thread_time() < until:
            pass
        return list(works)

    async def go() -> None:
        batcher: Batcher[float, float] = Batcher(compute, 20, 0.0, 100, may_run_inline=lambda seconds: seconds < 1)
        for seconds in (0.001, 0.06, 0.001):
            await batcher.run(seconds, 1)
        for seconds in (0.001, 0.001, 0.1, 0.1):
            await asyncio.gather(*(batcher.run(seconds, 1) for _ in range(8)))

    asyncio.run(go())
    inline = [thread == threading.get_ident() for thread in threads]
    assert inline == [
        False,  # how long it takes is not known
        True,
        False,  # the second raised the average above the bound of an idle server
        False,
        True,  # under load from here on
        True,  # raises the average above the bound under load
        False,
    ]


def test_the_queue_is_bounded_and_states_when_to_retry() -> None:
    async def go() -> None:
        work = Work()
        work.gate.clear()
        batcher: Batcher[str, str] = Batcher(work, 2, 0.0, 1)
        waiting = [asyncio.create_task(batcher.run(name, 1)) for name in "ab"]
        await until(lambda: work.batches == [["a"]])
        waiting.append(asyncio.create_task(batcher.run("c", 1)))
        await until(lambda: batcher.depth == 3)
        with pytest.raises(RequestError) as refused:
            await batcher.run("d", 1)
        assert refused.value.code == 429 and int(refused.value.headers["Retry-After"]) >= 1
        assert batcher.depth == 3
        work.gate.set()
        await asyncio.gather(*waiting)
        assert batcher.depth == 0 and await batcher.run("e", 1) == "answer to e"

    asyncio.run(go())


def test_cancelled_requests_are_dropped_from_the_queue() -> None:
    async def go() -> list[list[str]]:
        work = Work()
        work.gate.clear()
        batcher: Batcher[str, str] = Batcher(work, 9, 0.0, 1)
        first = asyncio.create_task(batcher.run("a", 1))
        await until(lambda: work.batches == [["a"]])
        cancelled, remaining = (asyncio.create_task(batcher.run(name, 1)) for name in ("cancelled", "remaining"))
        await until(lambda: batcher.depth == 3)
        cancelled.cancel()
        work.gate.set()
        await asyncio.gather(first, remaining)
        return work.batches

    assert asyncio.run(go()) == [["a"], ["remaining"]]


def test_a_failing_request_fails_alone() -> None:
    async def go() -> list[Any]:
        work = Work()
        work.gate.clear()
        batcher: Batcher[str, str] = Batcher(work, 9, 0.0, 100)
        first = asyncio.create_task(batcher.run("first", 1))
        await until(lambda: work.batches == [["first"]])
        others = [asyncio.create_task(batcher.run(name, 1)) for name in ("a", "poison", "bad", "b")]
        await until(lambda: batcher.depth == 5)
        work.gate.set()
        await first
        return await asyncio.gather(*others, return_exceptions=True)

    a, poison, bad, b = asyncio.run(go())
    assert (a, b) == ("answer to a", "answer to b")
    assert isinstance(poison, RuntimeError) and isinstance(bad, ValueError)


def metric(server: Server, name: str) -> float:
    """The value of a sample of ``/metrics``, by its full name."""
    for line in httpx.get(f"{server.url}/metrics", timeout=120).text.splitlines():
        if line.startswith(f"{name} "):
            return float(line.rpartition(" ")[2])
    return 0.0


def dialogues(count: int) -> list[list[Utterance]]:
    """Dialogues of different lengths; some turns lack a modality."""
    return [
        [
            Utterance(
                f"Turn {turn} of call {number}." if (turn + number) % 3 else None,
                clip(0.5 + turn / 10, pitch=150 + number),
            )
            if (turn + number) % 4
            else Utterance(f"Only words, {turn} {number}.")
            for turn in range(1 + number % 5)
        ]
        for number in range(count)
    ]


def test_sixteen_concurrent_clients_get_the_same_answers_as_alone(server: Server, bundle: str) -> None:
    requests = dialogues(24)
    offline = load_bundle(bundle)
    alone = [offline.predict([dialogue])[0].probabilities for dialogue in requests]
    before = metric(server, "mistere_batch_dialogues_count"), metric(server, "mistere_batch_dialogues_sum")
    with ThreadPoolExecutor(16) as pool:
        methods = [server.client.predict_rest, server.client.predict_grpc, server.client.predict_v1]
        answers = list(pool.map(lambda pair: methods[pair[0] % 3](pair[1]).probabilities, enumerate(requests)))
    for answer, expected in zip(answers, alone, strict=True):
        np.testing.assert_allclose(answer, expected, atol=1e-4)
    batches = metric(server, "mistere_batch_dialogues_count") - before[0]
    assert metric(server, "mistere_batch_dialogues_sum") - before[1] == 24 > batches


def test_one_unreadable_recording_among_many_is_rejected_alone(server: Server) -> None:
    def send(number: int) -> int:
        sound = b"RIFF-no-wave" if number == 3 else clip(0.6, pitch=400 + number)
        import base64

        body = {"instances": [{"utterances": [{"text": "Well?"}, {"audio": base64.b64encode(sound).decode()}]}]}
        answer = httpx.post(f"{server.url}/v1/models/mistere:predict", json=body, timeout=120)
        if number == 3:
            assert "utterance 1" in answer.json()["error"]
        return answer.status_code

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(send, range(8))) == [200, 200, 200, 415, 200, 200, 200, 200]


def test_the_next_turn_of_a_conversation_computes_one_utterance(server: Server, bundle: str) -> None:
    turns = [Utterance(f"This is turn {turn}, word for word.", clip(0.6, pitch=500 + turn)) for turn in range(6)]
    misses = []
    for length in range(1, len(turns) + 1):
        before = metric(server, 'mistere_utterance_vectors_total{found="miss"}')
        answer = server.client.predict_rest(turns[:length]).probabilities
        misses.append(metric(server, 'mistere_utterance_vectors_total{found="miss"}') - before)
        expected = load_bundle(bundle).predict([turns[:length]])[0].probabilities if length == len(turns) else None
        if expected is not None:
            np.testing.assert_allclose(answer, expected, atol=1e-4)
    assert misses == [2.0] * len(turns)


@pytest.mark.long
def test_a_batch_with_an_evicted_recording_names_it_by_each_request_or_takes_it_from_another(bundle: str) -> None:
    recording = clip()
    digest = hashlib.sha256(recording).hexdigest()
    first, second = [RequestTurn(audio_digest=digest)], [RequestTurn(text="Hi."), RequestTurn(audio_digest=digest)]
    encoder = CachedEncoder(load_bundle(bundle), Limits(vector_store_bytes=0), Pace())

    def computed(*dialogues: list[RequestTurn]) -> list[Any]:
        plans = [encoder.plan([dialogue]) for dialogue in dialogues]
        encoder.compute([task for plan in plans for task in plan.missing()])
        return [encoder.embeddings(plan) for plan in plans]

    for index, error in enumerate(computed(first, second)):
        assert isinstance(error, RequestError) and error.code == 409 and f": {index} ({digest})" in error.message
    named, sent = computed(first, [RequestTurn(audio=recording)])
    np.testing.assert_array_equal(named[0]["speech"], sent[0]["speech"])


@pytest.mark.long
def test_a_recording_is_sent_once_even_without_an_audio_store(bundle: str, tmp_path: Path) -> None:
    """Without an audio store the cached vector suffices."""
    server = launch(["-m", "mistere.predictor"], bundle, tmp_path / "log", "--audio-store-mib", "0")
    try:
        server.client.wait_ready(300)
        recording = clip(0.8, pitch=333)
        uploaded = server.client.predict_rest([Utterance(None, recording), Utterance("And then?")])
        digest = hashlib.sha256(recording).hexdigest()
        body = {
            "inputs": [
                {"name": "audio_digest", "datatype": "BYTES", "shape": [2], "data": [digest, ""]},
                {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["", "And then?"]},
            ]
        }
        answer = httpx.post(f"{server.url}/v2/models/mistere/infer", json=body, timeout=120)
        assert answer.status_code == 200, answer.text
        output = next(output for output in answer.json()["outputs"] if output["name"] == "probabilities")
        np.testing.assert_allclose(np.reshape(output["data"], output["shape"]), uploaded.probabilities, atol=1e-6)
        body["inputs"][0]["data"] = ["0" * 64, ""]
        unknown = httpx.post(f"{server.url}/v2/models/mistere/infer", json=body, timeout=120)
        assert unknown.status_code == 409 and "0" * 64 in unknown.json()["error"]
    finally:
        assert server.terminate() == 0


def test_later_turns_change_earlier_predictions_in_a_full_model_only(
    bundle: str, tmp_path: Path, dialogue: list[Utterance]
) -> None:
    turns = [*dialogue, Utterance("Then what?"), Utterance(None, clip(0.5, pitch=700))]
    causal, full = load_bundle(make_bundle(tmp_path, context_mode="causal")), load_bundle(bundle)
    assert (causal.context_mode, full.context_mode) == ("causal", "full")
    complete = causal.predict([turns])[0].probabilities
    largest_change = 0.0
    for length in range(1, len(turns)):
        np.testing.assert_allclose(causal.predict([turns[:length]])[0].probabilities, complete[:length], atol=1e-5)
        before, after = full.predict([turns[:length]])[0], full.predict([turns])[0]
        largest_change = max(largest_change, float(np.abs(before.probabilities - after.probabilities[:length]).max()))
    assert largest_change > 1e-4


@pytest.mark.long
def test_new_audio_of_a_request_is_limited_before_decoding(bundle: str, tmp_path: Path) -> None:
    server = launch(["-m", "mistere.predictor"], bundle, tmp_path / "log", "--max-total-seconds", "2")
    try:
        server.client.wait_ready(300)
        turns = [Utterance(None, clip(0.9, pitch=300 + 50 * number)) for number in range(3)]
        server.client.predict_rest(turns[:2])
        server.client.predict_rest(turns)  # two of them were sent before
        new_turns = [Utterance(None, clip(0.9, pitch=800 + 50 * number)) for number in range(3)]
        with pytest.raises(EndpointError, match="2 seconds of audio") as refused:
            server.client.predict_rest(new_turns)
        assert refused.value.code == "413"
    finally:
        assert server.terminate() == 0
