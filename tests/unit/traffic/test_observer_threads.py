"""The threads that write what was observed of answers: they end together, within the time that a pod has after SIGTERM."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mistere.artifacts.object_store import LocalStore
from mistere.predictor.answer_observers import AnswerObservers
from mistere.predictor.request_log.writer import RequestLogWriter
from mistere.predictor.sample.writer import SampleWriter
from mistere.predictor.shadow.copier import ShadowCopier
from mistere.predictor.shadow.recorder import ShadowRecorder
from mistere.predictor.shadow.targets import FixedTarget
from mistere.predictor.traffic.recorder import TrafficRecorder
from mistere.predictor.traffic.sweeper import Sweeper
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
