"""Kept dialogues: written by a thread that never fails a request, found by a keyed hash, deleted by id and by time."""

from __future__ import annotations

import gc
import hashlib
import logging
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mistere.artifacts.object_store import LocalStore, ObjectStore
from mistere.artifacts.s3.encryption import encryption_arguments
from mistere.artifacts.s3.store import S3Store
from mistere.common.errors import ArtifactError, UsageError
from mistere.config.predictor import BUNDLE_STORE, PredictorConfig
from mistere.model.mixture.prediction import DialoguePrediction
from mistere.predictor import metrics
from mistere.predictor.answer_observers import _sampler
from mistere.predictor.encoding.plan import EncodingPlan
from mistere.predictor.protocol.codec import DialogueRequest, RequestTurn
from mistere.predictor.sample import joining
from mistere.predictor.sample import writer as sample_writer
from mistere.predictor.sample.joining import Part, add, one_after_the_other
from mistere.predictor.sample.sampler import Sampler, is_sampled
from mistere.predictor.sample.writer import Answered, SampleWriter
from mistere.predictor.settings import ServerSettings
from mistere.predictor.stream.origin import StreamOrigin
from mistere.serving.sample.dialogue import KeptTurn
from mistere.serving.sample.places import (
    DAY_SECONDS,
    HASHING_KEY,
    delete_folder,
    folder_of,
    hashing_key,
    known_folder,
    shown_name,
    sweep,
)
from mistere.serving.sample.reading import read_dialogues, read_recording, read_vectors
from mistere.serving.traffic.retention import try_to_sweep
from tests.unit.labelling.kept import EXPERTS, LABELS, NOW, keep, kept_turn

HOSTILE_IDS = ("../../etc/passwd", "a/b\\c", "x" * 256, "\0\n", "..", "é\U0001f600", "\ud800")


def answered(dialogue_id: str, *texts: str, clips: dict[str, bytes] | None = None, at: float = NOW) -> Answered:
    digests = list(clips or {})

    def turns() -> list[KeptTurn]:
        made = [kept_turn(text=text) for text in texts]
        return [*made, *(kept_turn(text=None).model_copy(update={"audio": digest}) for digest in digests)]

    return Answered(
        dialogue_id=dialogue_id,
        at=at,
        bundle_digest="b" * 64,
        labels=LABELS,
        experts=EXPERTS,
        sent_vectors=False,
        turns=turns,
        clips={digest: clip for digest, clip in (clips or {}).items() if clip},
        vectors=lambda: {"text": np.full((len(texts) + len(digests), 2), np.nan, np.float16)},
        size=100 + sum(map(len, (clips or {}).values())),
    )


def clip_of(content: bytes) -> dict[str, bytes]:
    return {hashlib.sha256(content).hexdigest(): content}


def outcome(name: str) -> float:
    return metrics.SAMPLE.labels(name)._value.get()


def test_a_dialogue_that_goes_on_is_one_dialogue(store: ObjectStore) -> None:
    first, second = clip_of(b"first"), clip_of(b"second")
    for clips in (first, {**dict.fromkeys(first, b""), **second}):  # the first recording is named by its digest later
        writer = SampleWriter(store, 30, clock=lambda: NOW)
        writer.put(answered("call-1", "Hello.", clips=clips))
        writer.close(60)
    ((folder, dialogue),) = read_dialogues(store, NOW, pytest.fail)
    assert [turn.audio for turn in dialogue.turns] == [None, *first, *second]
    assert dialogue.keep_until == time.strftime("%Y-%m-%d", time.gmtime(NOW + 30 * DAY_SECONDS))
    assert [read_recording(store, folder, digest) for digest in (*first, *second)] == [b"first", b"second"]
    assert read_recording(store, folder, "0" * 64) is None
    assert read_vectors(store, folder)["text"].shape == (3, 2)
    assert "call-1" not in "".join(store.keys("sample")) + dialogue.model_dump_json()


@pytest.mark.parametrize(("together", "remembered"), [(True, 4096), (False, 4096), (False, 0)])
def test_a_stream_is_kept_whole(
    together: bool, remembered: int, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its requests have a window of its turns, and predict the last one; answers may overtake each other, or be dropped."""
    monkeypatch.setattr(sample_writer, "_REMEMBERED", remembered)
    store = Held(tmp_path)
    writer = SampleWriter(store, 30, clock=lambda: NOW)

    def part(stream: bytes, first: int, last: int) -> None:
        numbers = range(first, last + 1)
        turns = [kept_turn(text=f"turn {number}", predicted=number == last) for number in numbers]
        rows = np.array([[number, np.nan if number == 1 else 0] for number in numbers], np.float16)
        whole = answered("call", *(turn.text or "" for turn in turns))
        one = replace(whole, turns=lambda: turns, vectors=lambda: {"text": rows}, origin=StreamOrigin(stream, first))
        writer.put(one)
        if not together:
            wait(lambda: not writer._waiting)

    if not together:
        store.may_answer.set()
    for first, last in ((0, 0), (0, 1), (1, 3), (1, 2), (3, 4), (7, 8)):
        part(b"one", first, last)
    store.may_answer.set()
    writer.close(60)
    ((folder, dialogue),) = read_dialogues(store, NOW, pytest.fail)
    numbers = [0, 1, 2, 3, 4, 7, 8]
    assert [turn.text for turn in dialogue.turns] == [f"turn {number}" for number in numbers]
    assert [turn.predicted for turn in dialogue.turns] == [number != 7 for number in numbers]
    vectors = read_vectors(store, folder)["text"]
    assert vectors[[0, 2, 3, 4, 5, 6], 0].tolist() == [0, 2, 3, 4, 7, 8] and np.isnan(vectors[1]).all()
    writer = SampleWriter(store, 30, clock=lambda: NOW)
    part(b"two", 0, 0)  # the server stopped, and the client opened another stream
    part(b"two", 0, 1)
    part(b"one", 8, 9)  # what the one that stopped wrote late
    writer.close(60)
    ((_, dialogue),) = read_dialogues(store, NOW, pytest.fail)
    numbers = [0, 1, 2, 3, 4, 7, 8, 9, 0, 1]
    assert [turn.text for turn in dialogue.turns] == [f"turn {number}" for number in numbers]
    rows = read_vectors(store, folder)["text"]
    assert rows[[0, 2, 3, 4, 5, 6, 7, 8], 0].tolist() == [0, 2, 3, 4, 7, 8, 9, 0]
    assert np.isnan(rows[[1, 9]]).all() and len(rows) == 10


@pytest.mark.parametrize(
    ("changes", "texts", "known"),
    [
        ({}, ["Hello.", "And?"], [True, True]),
        ({"bundle_digest": "c" * 64}, ["Hello.", "And?"], [False, True]),  # its vectors are of another space
        ({"labels": [*LABELS[:2], "sad"]}, ["And?"], [True]),  # a dialogue has one list of labels
    ],
)
def test_a_stream_follows_what_came_before_it(
    changes: dict[str, Any], texts: list[str], known: list[bool], tmp_path: Any
) -> None:
    """A client opens it again after a release, or has begun with whole requests."""
    store = LocalStore(tmp_path)
    first = replace(answered("call", "Hello."), vectors=lambda: {"text": np.zeros((1, 2), np.float16)})
    again: dict[str, Any] = {"turns": lambda: [kept_turn(text="And?")], "origin": StreamOrigin(b"two", 0), **changes}
    for one in (first, replace(first, **again)):
        writer = SampleWriter(store, 30, clock=lambda: NOW)
        writer.put(one)
        writer.close(60)
    ((folder, dialogue),) = read_dialogues(store, NOW, pytest.fail)
    assert [turn.text for turn in dialogue.turns] == texts and dialogue.began_at == NOW
    assert np.isfinite(read_vectors(store, folder)["text"]).all(axis=1).tolist() == known


def test_turns_that_came_as_a_whole_meanwhile_are_not_doubled() -> None:
    """A stream has its turns again as context when a whole request of the dialogue has come between two of them."""

    def part(stream: str, first: int, last: int, predicted: int) -> Part:
        turns = [kept_turn(text=str(number), predicted=number >= predicted) for number in range(first, last + 1)]
        return Part(first, turns, {}, stream)

    parts = add([], part("", 0, 3, predicted=0))
    for first, last in ((0, 4), (1, 6), (1, 5)):
        parts = add(parts, part("one", first, last, predicted=last))
    assert [turn.text for turn in one_after_the_other(parts).turns] == ["0", "1", "2", "3", "4", "5", "6"]
    assert all(turn.predicted for turn in one_after_the_other(parts).turns)


def test_streams_have_the_latest_turns_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "MOST_TURNS", 4)
    parts: list[Part] = []
    for stream, first in (("one", 0), ("one", 1), ("two", 0), ("two", 1), ("three", 7)):
        turns = [kept_turn(text=f"{stream} {number}") for number in (first, first + 1)]
        parts = add(parts, Part(first, turns, {"text": np.full((2, 1), first, np.float16)}, stream))
    assert [(part.stream, part.first, len(part.turns)) for part in parts] == [("two", 1, 2), ("three", 7, 2)]
    whole = one_after_the_other(parts)
    assert [turn.text for turn in whole.turns] == ["two 1", "two 2", "three 7", "three 8"]
    assert whole.vectors["text"][:, 0].tolist() == [1, 1, 7, 7]


@pytest.mark.parametrize("dialogue_id", HOSTILE_IDS)
def test_hostile_ids_stay_in_their_folder_and_are_deleted(dialogue_id: str, store: ObjectStore) -> None:
    keep(store, "other", [kept_turn()])
    before = sorted(store.keys("sample"))
    name = keep(store, dialogue_id, [kept_turn(audio=b"clip")], [b"clip"], np.zeros((1, 2), np.float32))
    assert len(sorted(store.keys("sample"))) == len(before) + 4
    folder = known_folder(store, dialogue_id)
    assert (shown_name(folder), delete_folder(store, folder)) == (name, 4)
    assert sorted(store.keys("sample")) == before
    assert delete_folder(store, folder) == 0


def test_deleting_from_an_empty_store_creates_nothing(store: ObjectStore) -> None:
    with pytest.raises(UsageError, match="name the store of the sample with --store"):
        known_folder(store, "call")
    assert not list(store.keys("sample")) and not sweep(store, NOW)
    store.write(HASHING_KEY, b"short")
    with pytest.raises(ArtifactError, match="5 bytes instead of 32"):
        known_folder(store, "call")


def test_every_replica_has_the_same_key_and_two_stores_have_not(store: ObjectStore) -> None:
    found: list[bytes | None] = []
    threads = [threading.Thread(target=lambda: found.append(hashing_key(store, create=True))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and found[0] is not None
    assert folder_of(found[0], "call") != folder_of(b"0" * 32, "call")


def test_a_sweep_deletes_what_is_over_and_nothing_else(store: ObjectStore) -> None:
    keep(store, "old", [kept_turn(audio=b"clip")], [b"clip"], keep_until="2026-12-30")
    keep(store, "today", [kept_turn()], keep_until="2027-01-15")
    assert sweep(store, NOW) == 1  # 2027-01-15
    assert [dialogue.keep_until for _, dialogue in read_dialogues(store, NOW, pytest.fail)] == ["2027-01-15"]
    assert len(list(store.keys("sample/dialogues"))) == 2


def test_a_sweep_deletes_what_an_interrupted_deletion_left(store: ObjectStore) -> None:
    keep(store, "whole", [kept_turn()])
    for name in ("audio/x", "dialogue.json"):
        store.write(f"sample/dialogues/{name.encode().hex():0>64}/{name}", b"left")
    assert sweep(store, NOW) == 2 and len(list(store.keys("sample/dialogues"))) == 2


class Deleted(LocalStore):
    """A store from which the call is deleted after its first recording has been written."""

    is_over = False

    def write(self, key: str, data: bytes, expected: str | None = None) -> str:
        version = super().write(key, data, expected)
        if "/audio/" in key and not self.is_over:
            self.is_over = delete_folder(self, known_folder(self, "call")) == 2
        return version


def test_a_call_that_is_deleted_while_it_is_written_leaves_nothing(tmp_path: Any) -> None:
    store, clips = Deleted(tmp_path), {**clip_of(b"first"), **clip_of(b"second")}
    writer = SampleWriter(store, 30, clock=lambda: NOW)
    before = outcome("written")
    writer.put(answered("call", "Hello.", clips=clips))
    wait(lambda: outcome("written") > before)
    assert store.is_over and not list(store.keys("sample/dialogues"))
    writer.put(answered("call", "Hello.", clips=clips))  # it goes on, and is kept anew
    writer.close(60)
    ((folder, _),) = read_dialogues(store, NOW, pytest.fail)
    assert {read_recording(store, folder, digest) for digest in clips} == {b"first", b"second"}


def test_a_call_that_is_kept_anew_has_its_recordings(tmp_path: Any) -> None:
    store, clips = LocalStore(tmp_path), clip_of(b"first")
    named = dict.fromkeys(clips, b"")
    for number, sent in enumerate((clips, named, clips)):
        writer = SampleWriter(store, 30, clock=lambda: NOW)
        writer.put(answered("call", "Hello.", clips=sent))
        writer.close(60)
        if not number:
            delete_folder(store, known_folder(store, "call"))
    ((folder, _),) = read_dialogues(store, NOW, pytest.fail)
    assert read_recording(store, folder, next(iter(clips))) == b"first"


def test_a_sweep_beside_other_work_says_what_it_did(tmp_path: Any) -> None:
    notes: list[str] = []
    store = LocalStore(tmp_path)
    keep(store, "old", [kept_turn()], keep_until="2026-12-30")
    try_to_sweep(store, NOW, notes.append)
    try_to_sweep(store, NOW, notes.append)
    assert notes == ["1 kept dialogue deleted, whose time is over."]
    try_to_sweep(S3Store("s3://b/x", endpoint="http://127.0.0.1:1", attempts=1), NOW, notes.append)
    assert len(notes) == 3 and notes[2].startswith(
        "Not all that was kept of the traffic and whose time is over was deleted: "
    )


def test_the_writer_sweeps_and_begins_an_old_dialogue_anew(tmp_path: Any) -> None:
    store = LocalStore(tmp_path)
    for at in (NOW, NOW + 3 * DAY_SECONDS):
        writer = SampleWriter(store, 2, clock=lambda: NOW)
        writer.put(answered("call", "Hello.", at=at))
        writer.close(60)
    ((_, dialogue),) = read_dialogues(store, NOW, pytest.fail)
    assert dialogue.began_at == NOW + 3 * DAY_SECONDS
    writer = SampleWriter(store, 2, clock=lambda: NOW + 6 * DAY_SECONDS)
    wait(lambda: not any((store.root / "sample" / "dialogues").iterdir()))
    writer.close(60)


def served() -> Any:
    """What the sampler reads of a served model."""
    return SimpleNamespace(labels=LABELS, experts=EXPERTS, bundle=SimpleNamespace(digest="b" * 64))


@pytest.mark.parametrize("named", [True, False])
def test_the_predictor_sweeps_after_sampling_was_switched_off(named: bool, tmp_path: Any) -> None:
    bundle = f"{tmp_path}/store/artifacts/ModelBundle/{'b' * 64}"
    options = PredictorConfig(sample_store=str(tmp_path / "kept") if named else BUNDLE_STORE)
    assert _sampler(served(), ServerSettings(str(tmp_path))) is None  # a copy of a bundle
    assert _sampler(served(), ServerSettings(bundle)) is None
    store = LocalStore(tmp_path / ("kept" if named else "store"))
    keep(store, "old", [kept_turn()], keep_until="2020-01-01")
    sampler = _sampler(served(), ServerSettings(bundle, options=options))
    assert sampler is not None
    wait(lambda: not any((store.root / "sample" / "dialogues").iterdir()))
    sampler.writer.close(60)
    assert not sampler.wants([DialogueRequest(dialogue_id="call", consent=True)])


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Held(LocalStore):
    """A store that answers once it may, and fails as long as it should."""

    def __init__(self, root: Any) -> None:
        super().__init__(root)
        self.may_answer, self.fails = threading.Event(), False

    def write(self, key: str, data: bytes, expected: str | None = None) -> str:
        self.may_answer.wait(60)
        if self.fails:
            raise OSError("the disk is on fire")
        return super().write(key, data, expected)


def test_what_waits_is_bounded_and_a_longer_state_replaces_a_shorter_one(tmp_path: Any) -> None:
    store, dropped = Held(tmp_path), outcome("dropped")
    writer = SampleWriter(store, 30, queue_bytes=1000, clock=lambda: NOW)
    writer.put(answered("held", "Hello."))
    wait(lambda: not writer._waiting)
    first = clip_of(b"x" * 600)
    writer.put(answered("call", "Hello.", clips=first))
    writer.put(answered("call", "Hello.", "And?", clips=dict.fromkeys(first, b"")))
    writer.put(answered("too much", clips=clip_of(b"y" * 600)))
    assert (len(writer._waiting), writer._held, outcome("dropped") - dropped) == (1, 700, 1)
    store.may_answer.set()
    writer.close(60)
    kept = sorted((d for _, d in read_dialogues(store, NOW, pytest.fail)), key=lambda d: len(d.turns))
    assert [len(d.turns) for d in kept] == [1, 3]
    folder = next(folder for folder, d in read_dialogues(store, NOW, pytest.fail) if len(d.turns) == 3)
    assert read_recording(store, folder, next(iter(first))) == b"x" * 600
    writer.put(answered("late"))
    assert outcome("dropped") - dropped == 2


def test_what_waits_holds_no_request(tmp_path: Any) -> None:
    store, text, image = Held(tmp_path), "word " * 1000, b"image" * 1000
    writer = SampleWriter(store, 30, clock=lambda: NOW)
    writer.put(answered("held", "Hello."))
    wait(lambda: not writer._waiting)
    asked = DialogueRequest(
        [RequestTurn(text, others={"face": image}), RequestTurn()],
        dialogue_id="call",
        consent=True,
        origin=StreamOrigin(b"stream", 7),
    )
    plan = EncodingPlan([{"text": [b"k", None]}], {b"k": np.ones(4, np.float32)})
    rows = np.array([[0.5, 0.3, 0.2], [0, 0, 0]], np.float32)
    prediction = DialoguePrediction(rows, rows, np.stack([rows] * 3, 1), ["text", "none"])
    Sampler(served(), writer, 1.0).keep(asked, asked, prediction, plan)
    held = [weakref.ref(each) for each in (asked, plan, prediction)]
    del asked, plan, prediction
    gc.collect()
    assert [each() for each in held] == [None] * 3
    assert len(text) + 1000 < writer._held < len(text) + 3000
    assert [one.origin for one in writer._waiting.values()] == [StreamOrigin(b"stream", 7)]
    store.may_answer.set()
    writer.close(60)
    found = read_dialogues(store, time.time(), pytest.fail)
    folder, kept = next((folder, d) for folder, d in found if len(d.turns) == 2)
    assert [(turn.text, turn.label, turn.predicted) for turn in kept.turns] == [
        (text, "calm", True),
        (None, "", False),
    ]
    assert read_vectors(store, folder)["text"][0].tolist() == [1] * 4


def test_few_dialogues_wait(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_writer, "QUEUE_DIALOGUES", 2)
    store, dropped = Held(tmp_path), outcome("dropped")
    writer = SampleWriter(store, 30, clock=lambda: NOW)
    writer.put(answered("held", "Hello."))
    wait(lambda: not writer._waiting)
    for name in ("a", "b", "c", "a"):
        writer.put(answered(name, "Hello."))
    assert ([name for name, _ in writer._waiting], outcome("dropped") - dropped) == (["a", "b"], 1)
    store.may_answer.set()
    writer.close(60)


def test_a_failing_store_is_logged_once_and_counted(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    store, failed, written = Held(tmp_path), outcome("failed"), outcome("written")
    store.fails = True
    store.may_answer.set()
    logging.getLogger("kserve.predictor").propagate = True
    with caplog.at_level(logging.INFO, "kserve.predictor"):
        writer = SampleWriter(store, 30, clock=lambda: NOW)
        for number in range(3):
            writer.put(answered(f"call-{number}", "Hello."))
        wait(lambda: outcome("failed") - failed == 3)
        store.fails = False
        writer.put(answered("call-3", "Hello."))
        writer.close(60)
    assert outcome("written") - written == 1
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and "the disk is on fire" in said[0] and said[1].endswith("again")
    assert len(list(read_dialogues(store, NOW, pytest.fail))) == 1


def test_the_share_is_decided_by_the_id_alone() -> None:
    chosen = [is_sampled(f"call-{number}", 0.2) for number in range(5000)]
    assert 900 < sum(chosen) < 1100 and chosen == [is_sampled(f"call-{number}", 0.2) for number in range(5000)]
    assert all(is_sampled(f"call-{number}", 1.0) for number in range(100))
    assert not any(is_sampled(f"call-{number}", 0.0) for number in range(100))
    assert all(is_sampled(f"call-{number}", 0.3) for number, one in enumerate(chosen) if one)


def test_damaged_dialogues_are_named_and_left_out(store: ObjectStore) -> None:
    keep(store, "fine", [kept_turn()])
    key = hashing_key(store)
    assert key is not None
    for name, content in (("a", b"{"), ("b", b'{"turns": []}')):
        store.write(f"sample/dialogues/{folder_of(key, name)}/dialogue.json", content)
    store.write("sample/dialogues/readme.txt", b"not ours")
    notes: list[str] = []
    assert len(list(read_dialogues(store, NOW, notes.append))) == 1 and len(notes) == 2


def test_s3_encrypts_what_is_written(s3_store: S3Store) -> None:
    for encryption, expected in (("AES256", "AES256"), ("aws:kms", "aws:kms"), ("aws:kms:alias/mistere", "aws:kms")):
        store = S3Store(s3_store.uri, encryption=encryption)
        store.write("sample/x", b"content")
        head = store._s3.head_object(Bucket=store._bucket, Key=store._key("sample/x"))
        assert head["ServerSideEncryption"] == expected and store.read("sample/x")[0] == b"content"
    assert head["SSEKMSKeyId"] == "alias/mistere"


def test_unknown_encryption_is_refused() -> None:
    assert encryption_arguments("") == {}
    for wrong in ("aes", "aws:kms:", "aws:kmsx", "AES256 ", "aws:kms:a b"):
        with pytest.raises(UsageError, match="choose AES256"):
            encryption_arguments(wrong)
