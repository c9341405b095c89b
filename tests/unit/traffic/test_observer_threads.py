"""The threads that write what was observed of answers: they end together, within the time that a pod has after SIGTERM."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mistere.artifacts.object_store import LocalStore
from mistere.predictor.answer_observers import AnswerObservers
from mistere.predictor.request_log.writer import RequestLogWriter
from mistere.predictor.sample.writer import SampleWriter
from mistere.predictor.shadow.copier import ShadowCopier
from mistere.predictor.shadow.recorder import ShadowRecorder
from mistere.predictor.shadow.targets import FixedTarget
from mistere.predictor.traffic.recorder import MOST_HOURS, TrafficRecorder
from mistere.predictor.traffic.sweeper import Sweeper
from mistere.serving.traffic.files import HOUR_SECONDS
from tests.unit.labelling.kept import LABELS
from tests.unit.traffic.simulation import FIGURES
from tests.unit.traffic.test_request_log import entry, logged
from tests.unit.traffic.test_sample import answered


class Hanging(LocalStore):
    """A store that does not answer."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.may_answer = threading.Event()

    def write(self, key: str, data: bytes, expected: str | None = None) -> str:
        self.may_answer.wait(60)
        return super().write(key, data, expected)

    def keys(self, prefix: str) -> Iterator[str]:
        self.may_answer.wait(60)
        return super().keys(prefix)


def test_stores_that_hang_are_waited_for_together(tmp_path: Path) -> None:
    hanging, fine = Hanging(tmp_path / "hanging"), LocalStore(tmp_path / "fine")
    traffic = TrafficRecorder(FIGURES, "d" * 64, hanging)
    traffic.add([], {"turns": 1})
    sample, log = SampleWriter(hanging, 30), RequestLogWriter(fine, 30, 3600)
    sample.put(answered("call", "Hello."))
    log.put(entry("call"))
    counts = ShadowRecorder("a" * 64, tuple(LABELS), hanging, 3600, 30)
    counts.change("b" * 64, tuple(LABELS), lambda _: None)
    model: Any = SimpleNamespace(bundle=SimpleNamespace(digest="a" * 64), labels=LABELS, vector_digests={})
    target = FixedTarget("http://127.0.0.1:1", hanging, "mistere")
    shadow = ShadowCopier(model, "mistere", target, counts, 1.0, 8, 5.0)
    observed: Any = SimpleNamespace(recorder=traffic), SimpleNamespace(writer=sample)
    began = time.monotonic()
    try:
        AnswerObservers(*observed, shadow, log, Sweeper([hanging])).close(0.8)
        seconds = time.monotonic() - began
        assert logged(fine) == ["call"], "it had the time that the others waited"
    finally:
        hanging.may_answer.set()
    assert seconds < 6


def test_the_last_counts_are_written_although_another_store_hangs(tmp_path: Path) -> None:
    hanging, fine = Hanging(tmp_path / "hanging"), LocalStore(tmp_path / "fine")
    traffic = TrafficRecorder(FIGURES, "d" * 64, hanging)
    traffic.add([], {"turns": 1})
    counts = ShadowRecorder("a" * 64, tuple(LABELS), fine, 3600, 30)
    counts.change("b" * 64, tuple(LABELS), lambda _: None)
    model: Any = SimpleNamespace(bundle=SimpleNamespace(digest="a" * 64), labels=LABELS, vector_digests={})
    shadow = ShadowCopier(model, "mistere", FixedTarget("http://127.0.0.1:1", fine, "mistere"), counts, 1.0, 8, 5.0)
    observed: Any = SimpleNamespace(recorder=traffic)
    try:
        AnswerObservers(observed, None, shadow).close(0.8)
        assert len(list(fine.keys("shadow"))) == 1
    finally:
        hanging.may_answer.set()


class Recovering(LocalStore):
    """A store that fails until it is repaired; then something happens during its first write."""

    def __init__(self, root: Path, at_first_write: Callable[[], object]) -> None:
        super().__init__(root)
        self.works = False
        self._at_first_write = [at_first_write]

    def write(self, key: str, data: bytes, expected: str | None = None) -> str:
        if not self.works:
            raise RuntimeError("the store is down")
        if self._at_first_write:
            self._at_first_write.pop()()
        return super().write(key, data, expected)


@pytest.mark.parametrize("kind", ["traffic", "shadow"])
def test_an_hour_that_is_lost_while_it_is_written_ends_nothing(kind: str, tmp_path: Path) -> None:
    """After an outage of as many hours as are kept, the first request of the next hour arrives during a write."""
    hour = [480_000]
    store = Recovering(tmp_path, lambda: count())
    recorder: TrafficRecorder | ShadowRecorder
    if kind == "traffic":
        recorder = TrafficRecorder(FIGURES, "d" * 64, store, 0.01, lambda: hour[0] * HOUR_SECONDS)
    else:
        recorder = ShadowRecorder("a" * 64, tuple(LABELS), store, 0.01, 30, lambda: hour[0] * HOUR_SECONDS)

    def count() -> None:
        if isinstance(recorder, TrafficRecorder):
            recorder.add([], {"turns": 1})
        else:
            recorder.change("b" * 64, tuple(LABELS), lambda _: None)
        hour[0] += 1

    for _ in range(MOST_HOURS):
        count()
    store.works = True
    deadline = time.monotonic() + 30
    while len(list(store.keys(kind))) < MOST_HOURS + 1:
        assert recorder._thread.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)
    assert recorder.flush() and recorder._thread.is_alive()
    recorder.close()


def test_a_failure_that_nobody_foresaw_does_not_end_the_thread(tmp_path: Path) -> None:
    """Whatever a write raises, the next one comes."""
    recorder = TrafficRecorder(FIGURES, "d" * 64, None, 0.01)
    attempts: list[int] = []

    def flush() -> bool:
        attempts.append(1)
        if len(attempts) < 3:
            raise KeyError(len(attempts))
        return True

    recorder.flush = flush  # type: ignore[method-assign]
    recorder._thread.start()
    deadline = time.monotonic() + 30
    while len(attempts) < 5:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    recorder.close()
    assert not recorder._thread.is_alive()
