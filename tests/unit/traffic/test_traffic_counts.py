"""What is counted of the traffic: fixed bins, each turn once, by hour, in files that another process reads again."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mistere.artifacts.object_store import LocalStore, StoreError
from mistere.common.parsing.documents import ParseError
from mistere.model.mixture.prediction import DialoguePrediction
from mistere.predictor.encoding.plan import EncodingPlan, Task
from mistere.predictor.protocol.codec import DialogueRequest, RequestTurn
from mistere.predictor.stream.origin import StreamOrigin
from mistere.predictor.traffic.observation import TrafficObserver
from mistere.predictor.traffic.recorder import MOST_HOURS, TrafficRecorder
from mistere.predictor.traffic.turn_memory import TurnMemory
from mistere.serving.traffic.figures import TOTALS, Counts, Figures, pair_counts
from mistere.serving.traffic.files import (
    HOUR_SECONDS,
    counts_file,
    hour_name,
    hour_of,
    read_counts,
    read_traffic,
    traffic_key,
)

FIGURES = Figures(("anger", "joy", "neutral"), ("speech", "text", "cross_modal"), ("speech", "text"))
DIGEST = "d" * 64
NOON = 480_000 * HOUR_SECONDS


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = float(NOON)

    def __call__(self) -> float:
        return self.now


def prediction(labels: list[int], weights: list[list[float]] | None = None) -> DialoguePrediction:
    """An answer that gives each label 0.8; -1 stands for a turn that is context only."""
    probabilities = np.full((len(labels), 3), 0.1, np.float32)
    for row, label in enumerate(labels):
        probabilities[row] = 0.0 if label < 0 else probabilities[row]
        if label >= 0:
            probabilities[row, label] = 0.8
    given = weights or [[0.0, 0.7, 0.3]] * len(labels)
    return DialoguePrediction(
        probabilities, np.array(given, np.float32), np.zeros((len(labels), 3, 3), np.float32), ["text"] * len(labels)
    )


def texts(*said: str) -> DialogueRequest:
    return DialogueRequest(turns=[RequestTurn(text=text) for text in said])


def observer(**options: Any) -> TrafficObserver:
    return TrafficObserver(TrafficRecorder(FIGURES, DIGEST, **options), FIGURES.experts)


def observe(counted: TrafficObserver, dialogue: DialogueRequest, answer: DialoguePrediction) -> Counts:
    counted.observe([dialogue], [dialogue], [answer], None)
    return counted.recorder.total


def test_each_turn_of_a_live_conversation_is_counted_once() -> None:
    counted = observer()
    said = ["Hello.", "What do you want?", "Nothing.", "Really nothing?"]
    for length in range(1, 5):
        observe(counted, texts(*said[:length]), prediction([0, 1, 1, 2][:length]))
    total = observe(counted, texts(*said), prediction([0, 1, 1, 2]))
    assert {key: total.total(key) for key in ("requests", "dialogues", "turns", "resent", "texts")} == {
        "requests": 5,
        "dialogues": 1,
        "turns": 4,
        "resent": 6 + 4,
        "texts": 4,
    }
    assert total.by_key("label") == {"anger": 1, "joy": 2, "neutral": 1}
    assert total.total("pairs") == 6
    assert total.table("label_pairs").tolist() == [[3, 3, 0], [1, 4, 1], [3, 3, 0]]
    assert total.by_key("modality") == {"speech": 0, "text": 4, "none": 0}
    assert {key: count for key, count in total.by_key("script").items() if count} == {"Latin": 4}


def test_each_turn_of_a_stream_is_counted_once_while_its_window_slides() -> None:
    counted = observer()

    def answer(first: int, last: int, stream: bytes = b"one") -> Counts:
        dialogue = texts(*["Yes."] * (last + 1 - first))  # equal words: only the numbers tell the turns apart
        return observe(
            counted, replace(dialogue, origin=StreamOrigin(stream, first)), prediction([-1] * (last - first) + [1])
        )

    for last in range(20):
        answer(max(0, last - 3), last)
    answer(16, 19)  # again, with a transcript
    total = answer(0, 0, b"another")
    assert {key: total.total(key) for key in ("dialogues", "turns", "resent", "context")} == {
        "dialogues": 2,
        "turns": 21,
        "resent": 1,
        "context": 1 + 2 + 17 * 3 + 3,
    }


def test_an_absent_expert_has_no_weight() -> None:
    counted = observer()
    total = observe(counted, texts("a", "b"), prediction([0, 1], [[0.0, 0.6, 0.4], [0.5, 0.2, 0.3]]))
    assert total.by_key("weight") == {"speech": 1, "text": 2, "cross_modal": 2}
    figure = FIGURES.by_name["weight"]
    assert total.table("weight")[0].argmax() == figure.position(0.5) - figure.start


def test_context_turns_and_the_same_words_at_another_place_are_told_apart() -> None:
    counted = observer()
    observe(counted, texts("Yes.", "Yes."), prediction([-1, 1]))
    total = observe(counted, texts("Yes.", "Yes.", "Yes."), prediction([-1, 1, 1]))
    assert (total.total("turns"), total.total("context"), total.total("resent")) == (2, 2, 1)
    total = observe(counted, texts("Yes."), prediction([0]))  # predicted now, and not before
    assert total.total("turns") == 3


def test_another_dialogue_that_begins_alike_is_counted() -> None:
    counted = observer()
    observe(counted, texts("Hello."), prediction([0]))
    observe(counted, texts("Hello.", "I am angry."), prediction([0, 0]))
    observe(counted, texts("Hello."), prediction([0]))  # a second caller
    total = observe(counted, texts("Hello.", "I am glad."), prediction([0, 1]))
    assert (total.total("dialogues"), total.total("turns")) == (2, 4)
    recorded = DialogueRequest(turns=[RequestTurn(audio=b"one"), RequestTurn(audio=b"two")])
    observe(counted, recorded, prediction([0, 0]))
    total = observe(counted, DialogueRequest(turns=recorded.turns[:1]), prediction([0]))  # recordings are never equal
    assert (total.total("dialogues"), total.total("turns")) == (3, 6)


def test_dialogues_that_begin_with_the_same_context_are_told_apart() -> None:
    counted = observer()
    for answer in ("I am angry.", "I am glad.", "Nothing."):
        observe(counted, texts("Hello.", answer), prediction([-1, 0]))
        total = observe(counted, texts("Hello.", answer, "Goodbye."), prediction([-1, 0, -1]))
    observe(counted, texts("Hello."), prediction([-1]))  # nobody has answered yet
    assert (total.total("dialogues"), total.total("turns")) == (3, 3)


def test_vectors_are_turns_too() -> None:
    counted = observer()
    vectors = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    for length in (2, 3, 3):
        asked = DialogueRequest(embeddings={"text": vectors[:length], "speech": vectors[:length]})
        total = observe(counted, asked, prediction([0, 1, 2][:length]))
    assert (total.total("turns"), total.total("resent")) == (3, 5)


def test_levels_and_durations_of_new_recordings() -> None:
    counted = observer()
    plan = EncodingPlan(keys=[{"speech": [b"1", b"2", None], "text": [None, None, b"3"]}])
    dialogue = DialogueRequest(turns=[RequestTurn(audio=b"x"), RequestTurn(audio=b"y"), RequestTurn(text="z")])
    for key, sound in ((b"1", (1.5, -20.5)), (b"2", None)):  # the second was not decoded: its vector was known
        plan.tasks[key] = Task(plan, "speech", dialogue.turns, 0, key, sound=sound)
    counted.observe([dialogue], [dialogue], [prediction([0, 1, 2])], plan)
    total = counted.recorder.total
    assert total.total("recordings") == 1
    assert np.flatnonzero(total.table("seconds")[0]).tolist() == [6]
    assert np.flatnonzero(total.table("rms_dbfs")[0]).tolist() == [69]


@pytest.mark.parametrize("value", [-np.inf, np.inf, -1e30, 1e30, 0.0])
def test_extreme_values_fall_into_the_outermost_bins(value: float) -> None:
    figure = FIGURES.by_name["rms_dbfs"]
    assert figure.start <= figure.position(value) < figure.start + figure.bins


def test_hostile_requests_do_not_make_the_counts_grow() -> None:
    counted = observer()
    size = counted.recorder.total.values.nbytes
    for number in range(300):
        observe(counted, texts(chr(0x1000 + 40 * number) * 2000, "\U0001f600" * 9), prediction([number % 3, 0]))
    assert counted.recorder.total.values.nbytes == size < 8 * 1000
    assert counted.recorder.total.total("turns") == 600
    counted.observe([texts("x")], [texts("x")], [SimpleNamespace()], None)  # type: ignore[list-item]  # a defect here fails no answer


def test_memory_forgets_the_oldest_turns() -> None:
    memory = TurnMemory(10)
    for number in range(20):
        assert memory.new_turns([b"%d" % number], [True], True) == ([True], True)
    assert len(memory) == 10
    assert memory.new_turns([b"19"], [True], True) == ([False], False)
    assert memory.new_turns([b"0"], [True], True) == ([True], True)


def test_pairs_are_those_of_a_new_turn_with_earlier_ones() -> None:
    predicted = np.array([0, 1, 0, 0])
    assert pair_counts(predicted, np.array([True] * 4), 3).tolist() == [[0, 3, 3], [3, 3, 0], [6, 0, 0]]
    assert pair_counts(predicted, np.array([False, False, False, True]), 3).tolist() == [
        [0, 1, 2],
        [2, 1, 0],
        [3, 0, 0],
    ]
    assert not pair_counts(predicted[:1], np.array([True]), 3).any()


def test_hours_are_written_and_read_again(tmp_path: Path) -> None:
    store, clock = LocalStore(tmp_path), Clock()
    counted = [observer(store=store, interval=3600, clock=clock, replica=name) for name in ("one", "two")]
    observe(counted[0], texts("Hello."), prediction([0]))
    observe(counted[1], texts("Good evening."), prediction([1]))
    assert all(each.recorder.flush() for each in counted)
    clock.now += HOUR_SECONDS
    observe(counted[0], texts("Bye."), prediction([2]))
    assert counted[0].recorder.flush()
    first = NOON // HOUR_SECONDS
    assert traffic_key(DIGEST, first, "one") in set(store.keys("traffic"))
    hours = read_traffic(store, DIGEST, FIGURES, first, first + 2, pytest.fail)
    assert {hour: counts.by_key("label") for hour, counts in hours.items()} == {
        first: {"anger": 1, "joy": 1, "neutral": 0},
        first + 1: {"anger": 0, "joy": 0, "neutral": 1},
    }
    assert list(read_traffic(store, DIGEST, FIGURES, first + 1, first + 2, pytest.fail)) == [first + 1]
    assert not read_traffic(store, "e" * 64, FIGURES, 0, first + 2, pytest.fail)
    for each in counted:
        each.recorder.close()


def test_the_rest_is_written_at_the_end_and_while_running(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    counted = observer(store=store, interval=3600)
    observe(counted, texts("Hello."), prediction([0]))
    counted.recorder.close()
    assert len(list(store.keys("traffic"))) == 1
    written = threading.Event()

    class Announcing(LocalStore):
        def write(self, key: str, data: bytes, expected: str | None = None) -> str:
            written.set()
            return super().write(key, data, expected)

    counted = observer(store=Announcing(tmp_path), interval=0.01)
    observe(counted, texts("Hello."), prediction([0]))
    assert written.wait(30)
    counted.recorder.close()


class BrokenStore(LocalStore):
    """A store that fails until it is mended."""

    broken = True

    def write(self, key: str, data: bytes, expected: str | None = None) -> str:
        if self.broken:
            raise StoreError("the disk is full.")
        return super().write(key, data, expected)


def test_a_failing_store_loses_nothing_but_the_oldest_hours(tmp_path: Path) -> None:
    store, clock = BrokenStore(tmp_path), Clock()
    counted = observer(store=store, interval=3600, clock=clock, replica="one")
    for hour in range(MOST_HOURS + 3):
        observe(counted, texts(f"Hour {hour}."), prediction([0]))
        assert not counted.recorder.flush()
        clock.now += HOUR_SECONDS
    assert counted.recorder.failures == MOST_HOURS + 3
    store.broken = False
    assert counted.recorder.flush() and counted.recorder.written_at == clock.now
    first = NOON // HOUR_SECONDS
    hours = read_traffic(store, DIGEST, FIGURES, first, first + 1000, pytest.fail)
    assert list(hours) == list(range(first + 3, first + MOST_HOURS + 3))
    assert counted.recorder.total.total("turns") == MOST_HOURS + 3
    counted.recorder.close()


def test_files_hold_counts_and_nothing_else(tmp_path: Path) -> None:
    counted = observer()
    observe(counted, texts("My number is 0170 555."), prediction([0]))
    path = tmp_path / "file.parquet"
    path.write_bytes(counts_file(counted.recorder.total))
    table = pq.read_table(path)
    assert table.column_names == ["figure", "key", "bin", "low", "high", "count"]
    assert set(table["key"].to_pylist()) <= {"", *TOTALS, *FIGURES.labels, *FIGURES.experts, "text", "Latin"}
    assert b"0170" not in path.read_bytes()
    assert np.array_equal(read_counts(path, FIGURES).values, counted.recorder.total.values)


def test_hostile_files_are_left_out_by_name(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    hour = NOON // HOUR_SECONDS
    store.write(traffic_key(DIGEST, hour, "broken"), b"PAR1 is not enough")
    row = {"figure": ["label"], "key": ["joy"], "bin": [0], "count": [-5]}
    pq.write_table(pa.table(row), tmp_path / "negative.parquet")
    store.write(traffic_key(DIGEST, hour, "negative"), (tmp_path / "negative.parquet").read_bytes())
    with pytest.raises(ParseError, match="no valid bin and count"):
        read_counts(tmp_path / "negative.parquet", FIGURES)
    other = {"figure": ["label", "mood"], "key": ["surprise", "x"], "bin": [0, 7], "count": [5, 5]}
    pq.write_table(pa.table(other), tmp_path / "other.parquet")
    assert not read_counts(tmp_path / "other.parquet", FIGURES).values.any()
    store.write(f"traffic/{DIGEST}/2026-02-31T01/x.parquet", b"")
    store.write(f"traffic/{DIGEST}/notes.txt", b"")
    notes: list[str] = []
    assert not read_traffic(store, DIGEST, FIGURES, 0, hour + 1, notes.append)
    assert len(notes) == 2 and all("is left out" in note for note in notes)


def test_hours_have_names() -> None:
    hour = NOON // HOUR_SECONDS
    assert hour_of(hour_name(hour)) == hour
    assert hour_name(0) == "1970-01-01T00"
