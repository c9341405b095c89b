"""The log of requests: written by a thread that never fails a request, without anything of a request, deleted by time."""

from __future__ import annotations

import errno
import gzip
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mistere.artifacts.object_store import LocalStore, ObjectStore
from mistere.artifacts.s3.store import S3Store
from mistere.common.errors import ArtifactError, UsageError
from mistere.config.predictor import BUNDLE_STORE, PredictorConfig
from mistere.model.mixture.prediction import DialoguePrediction
from mistere.predictor import metrics
from mistere.predictor.errors import RequestError, internal, invalid, own_words, printable, unknown_digests, unreadable
from mistere.predictor.request_log.log import RequestLog, start_request_log
from mistere.predictor.request_log.writer import Entry, RequestLogWriter
from mistere.predictor.settings import ServerSettings
from mistere.predictor.tracing.request_trace import TRACING, RequestTrace, TimedPhase
from mistere.predictor.traffic.sweeper import Sweeper, start_sweeper
from mistere.serving.deployment import Deployment, deployment_key
from mistere.serving.request_log.files import HASHING_KEY, delete_requests, log_file, log_key, read_log, sweep_log
from mistere.serving.request_log.line import LoggedRequest, logged_hash, logged_id
from mistere.serving.sample.places import DAY_SECONDS, hashing_key
from mistere.serving.shadow.files import shadow_key
from mistere.serving.traffic.files import hour_name
from mistere.serving.traffic.retention import sweep_all, try_to_sweep
from pipelines.cli.commands.label.kept_dialogues import delete
from pipelines.cli.commands.request_log import Choice, show_log
from tests.unit.labelling.kept import LABELS, NOW, keep, kept_turn


def outcome(name: str) -> float:
    return metrics.REQUEST_LOG.labels(name)._value.get()


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def entry(name: str, at: float = NOW, size: int = 100) -> Entry:
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))
    line = LoggedRequest(
        time=f"{moment}.000Z",
        id=name,
        protocol="grpc",
        code="OK" if name != "refused" else "INVALID_ARGUMENT",
        seconds=0.01,
        model="mistere",
        version="b" * 12,
        bundle="b" * 64,
        replica="host",
    )
    return Entry(at, size, lambda _: line.model_dump_json(exclude_defaults=True))


def started(store: ObjectStore, **options: Any) -> RequestLogWriter:
    return RequestLogWriter(store, 30, 0.05, **options)


def logged(store: ObjectStore, since: float = NOW - DAY_SECONDS, until: float = NOW + DAY_SECONDS) -> list[str]:
    return [line.id for line in read_log(store, since, until, pytest.fail)]


def served() -> Any:
    return SimpleNamespace(labels=LABELS, bundle=SimpleNamespace(digest="b" * 64))


def trace(**values: Any) -> RequestTrace:
    rows = np.array([[0.2, 0.7, 0.1], [0, 0, 0]], np.float32)
    predictions = [DialoguePrediction(rows, rows, np.stack([rows] * 3, 1), ["speech+text", "text"])]
    given = {"identity": str(uuid.uuid4()), "bytes": 71, "predictions": predictions, **values}
    return RequestTrace(None, "rest_v2", wall_ns=int(NOW) * 10**9 + 456_000_000, began=1.0, logged=True, **given)


def test_a_line_has_what_happened_and_hashes_of_ids(store: ObjectStore) -> None:
    writer = started(store)
    log = RequestLog(served(), "mistere", writer, 1.0)
    own, identity = trace(flags=("transcribe",), sizes={"utterances": 2}), "Jane Doe +44 20 7946 0000"
    own.phases += [TimedPhase("encode", 1.0, 1.2, {}), TimedPhase("encode", 1.2, 1.25, {})]
    log.add(own, "200", "", 1.5)
    log.add(trace(identity=identity, dialogue_id=identity, predictions=[]), "429", "The server is busy.", 1.5)
    writer.close(60)
    first, second = read_log(store, NOW, NOW, pytest.fail)
    assert json.loads(first.model_dump_json(exclude_defaults=True)) == {
        "time": "2027-01-15T08:00:00.456Z",
        "id": own.identity,
        "protocol": "rest_v2",
        "code": "200",
        "seconds": 0.5,
        "phases": {"encode": 0.25},
        "sizes": {"bytes": 71, "utterances": 2},
        "options": ["transcribe"],
        "model": "mistere",
        "version": "b" * 12,
        "bundle": "b" * 64,
        "replica": writer.replica,
        "labels": LABELS,
        "turns": [
            {
                "dialogue": 0,
                "turn": 0,
                "label": LABELS[1],
                "probabilities": [0.2, 0.7, 0.1],
                "modalities": "speech+text",
            }
        ],
    }
    key = hashing_key(store, place=HASHING_KEY)
    assert key is not None and (second.code, second.error) == ("429", "The server is busy.")
    assert second.id == second.dialogue == logged_id(key, identity) == logged_hash(key, identity)
    (name,) = (each for each in store.keys("requests") if each != HASHING_KEY)
    assert name == f"requests/until-2027-02-14/2027-01-15T08/{writer.replica}-000000.jsonl.gz"
    everything = gzip.decompress(store.read(name)[0]).decode()
    assert "Jane" not in everything and "7946" not in everything


def test_an_error_while_noting_costs_the_line_alone(tmp_path: Path) -> None:
    store, failed = LocalStore(tmp_path), outcome("failed")
    writer = started(store)
    log = RequestLog(served(), "mistere", writer, 1.0)
    log.add(trace(predictions=[object()]), "200", "", 1.5)
    log.add(trace(phases=[object()]), "200", "", 1.5)
    log.add(trace(), "200", "", 1.5)
    writer.close(60)
    assert (len(logged(store)), outcome("failed") - failed) == (1, 2)


def test_the_share_is_of_the_requests(tmp_path: Path) -> None:
    writer = started(LocalStore(tmp_path))
    shares = [sum(RequestLog(served(), "m", writer, share).wants() for _ in range(4000)) for share in (0.0, 0.25, 1.0)]
    writer.close(60)
    assert shares[0] == 0 and 850 < shares[1] < 1150 and shares[2] == 4000


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


def test_what_waits_is_bounded_and_what_is_dropped_is_counted(tmp_path: Path) -> None:
    store, dropped, written = Held(tmp_path), outcome("dropped"), outcome("written")
    writer = started(store, queue_bytes=1000)
    for number in range(12):
        writer.put(entry(f"call-{number}"))
    assert outcome("dropped") - dropped == 2 and writer._held == 1000
    store.may_answer.set()
    writer.close(60)
    assert logged(store) == [f"call-{number}" for number in range(10)] and outcome("written") - written == 10
    writer.put(entry("late"))
    assert outcome("dropped") - dropped == 3 and writer._held == 0


def test_a_failing_store_is_logged_once_and_what_waits_is_written_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Held(tmp_path)
    store.fails = True
    store.may_answer.set()
    logging.getLogger("kserve.predictor").propagate = True
    with caplog.at_level(logging.INFO, "kserve.predictor"):
        writer = started(store)
        for number in range(3):
            writer.put(entry(f"call-{number}"))
        wait(lambda: len(caplog.records) == 1)
        time.sleep(0.2)  # several attempts
        store.fails = False
        writer.put(entry("call-3"))
        writer.close(60)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and "the disk is on fire" in said[0] and said[1].endswith("again")
    assert sorted(logged(store)) == [f"call-{number}" for number in range(4)]


def test_a_file_has_one_hour(tmp_path: Path) -> None:
    store = Held(tmp_path)
    writer = started(store)
    for number in range(6):
        writer.put(entry(f"call-{number}", NOW + 3600 * (number % 2)))
    store.may_answer.set()
    writer.close(60)
    assert logged(store, NOW + 3600, NOW + 3600) == ["call-1", "call-3", "call-5"]
    hours = {key.split("/")[2] for key in store.keys("requests") if key != HASHING_KEY}
    assert hours == {"2027-01-15T08", "2027-01-15T09"}


def test_a_sweep_deletes_what_is_over_and_nothing_else(store: ObjectStore) -> None:
    hour = int(NOW // 3600)
    for days in (1, 2):
        store.write(log_key(hour - 48, days, "host", days), b"")
        store.write(shadow_key("f" * 64, "e" * 64, hour - 48, f"host-{days}", days), b"")
    store.write("requests/until-2020-01-01", b"")
    keep(store, "old", [kept_turn()], keep_until="2026-12-30")
    earlier = [f"shadow/f/e/{hour_name(hour - 24 * days)}/host.parquet" for days in (89, 92)]  # without a day
    for name in (*earlier, "shadow/f/e/2026-02-31T00/host.parquet", "shadow/host.parquet"):
        store.write(name, b"")
    deleted = ["1 kept dialogue", "1 file of the request log", "2 files of shadows"]
    assert [words for _, words in sweep_all(store, NOW)] == deleted
    kept = shadow_key("f" * 64, "e" * 64, hour - 48, "host-2", 2)
    odd = ["shadow/f/e/2026-02-31T00/host.parquet", "shadow/host.parquet"]
    assert sorted(store.keys("shadow")) == sorted([earlier[0], kept, *odd])
    assert list(store.keys("requests")) == ["requests/until-2020-01-01", log_key(hour - 48, 2, "host", 2)]
    assert sweep_log(store, NOW) == 0


def test_a_sweep_says_what_it_could_not_delete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of another user, of which a deletion must not say that they are gone, and must not end the monitor."""
    store, hour, notes, unlink = LocalStore(tmp_path), int(NOW // 3600), list[str](), os.unlink
    for replica in ("mine", "theirs"):
        store.write(log_key(hour - 72, 1, replica, 0), b"")
        store.write(shadow_key("f" * 64, "e" * 64, hour - 72, replica, 1), b"")
        keep(store, replica, [kept_turn()], keep_until="2026-12-30")

    def refuse(path: Any, **options: Any) -> None:
        if "theirs" in str(path):
            raise PermissionError(errno.EPERM, "Operation not permitted", str(path))
        unlink(path, **options)

    monkeypatch.setattr(os, "unlink", refuse)
    for _ in range(2):
        try_to_sweep(store, NOW, notes.append)
    first, second = notes[:-1], notes[-1]
    assert [note.split(",")[0] for note in first[:3]] == [
        "2 kept dialogues deleted",
        "1 file of the request log deleted",
        "1 file of a shadow deleted",
    ]
    assert first[3:] == [second] and "theirs-000000.jsonl.gz (Operation not permitted): correct its owner" in second
    assert all(any("theirs" in key for key in store.keys(prefix)) for prefix in ("requests", "shadow"))


def test_a_deleted_dialogue_leaves_no_line(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    key = hashing_key(store, create=True, place=HASHING_KEY)
    assert key is not None and delete_requests(store, "nobody") == 0
    hour = int(NOW // 3600)

    def of(identity: str, dialogue: str) -> str:
        line = LoggedRequest.model_validate_json(entry(identity).line(key))
        return line.model_copy(update={"dialogue": logged_hash(key, dialogue)}).model_dump_json(exclude_defaults=True)

    quoting = json.dumps({**json.loads(of("c", "other")), "later": logged_hash(key, "call")})  # another's line
    store.write(log_key(hour, 30, "host", 0), log_file([of("a", "call"), of("b", ""), quoting]))
    store.write(log_key(hour, 30, "host", 1), log_file([of("d", "call"), of("e", "call")]))
    store.write(log_key(hour + 1, 30, "host", 2), kept := log_file([of("f", "other")]))
    write = type(store).write

    def killed(*arguments: Any, **options: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(store), "write", killed)
    with pytest.raises(KeyboardInterrupt):
        delete_requests(store, "call")
    assert logged(store) == ["a", "b", "c", "d", "e", "f"]
    raced: list[str] = []

    def other_first(of_store: ObjectStore, key: str, data: bytes, expected: str | None = None) -> str:
        """Another process deletes a dialogue from the file at the same time."""
        if not raced:
            raced.append(write(of_store, key, log_file([of("a", "call"), quoting])))
        return write(of_store, key, data, expected)

    monkeypatch.setattr(type(store), "write", other_first)
    assert delete_requests(store, "call") == 3 and delete_requests(store, "call") == 0
    assert logged(store) == ["c", "f"] and not store.exists(log_key(hour, 30, "host", 1))
    assert gzip.decompress(store.read(log_key(hour, 30, "host", 0))[0]).decode() == f"{quoting}\n"
    assert store.read(log_key(hour + 1, 30, "host", 2))[0] == kept
    store.write(log_key(hour, 30, "host", 0), b"damaged")
    store.write(log_key(hour, 30, "host", 3), log_file([of("g", "call")]))
    with pytest.raises(ArtifactError, match=r"host-000000.jsonl.gz may have requests .* cannot be read .*; delete it"):
        delete_requests(store, "call")
    assert not store.exists(log_key(hour, 30, "host", 3))


def test_the_command_deletes_from_a_log_without_a_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = LocalStore(tmp_path)
    writer = started(store)
    log = RequestLog(served(), "mistere", writer, 1.0)
    for dialogue in ("call", "other"):
        log.add(trace(dialogue_id=dialogue), "200", "", 1.5)
    writer.close(60)
    delete(tmp_path, store.uri, "call", [])
    delete(tmp_path, store.uri, "call", [])
    assert capsys.readouterr().out.splitlines() == [
        "deleted 1 line of the request log",
        "the request log has no line of the dialogue",
    ]
    assert len(logged(store)) == 1
    with pytest.raises(UsageError, match="no dialogue was ever kept"):  # its name in exports is unknown
        delete(tmp_path, store.uri, "call", [tmp_path / "export"])
    keep(store, "call", [kept_turn()])
    delete(tmp_path, store.uri, "call", [])
    assert "the request log has no line of the dialogue" in capsys.readouterr().out


@pytest.mark.parametrize("named", [True, False])
def test_the_predictor_sweeps_after_the_log_was_switched_off(named: bool, tmp_path: Path) -> None:
    bundle = f"{tmp_path}/store/artifacts/ModelBundle/{'b' * 64}"
    options = PredictorConfig(request_log_store=str(tmp_path / "log") if named else BUNDLE_STORE)
    assert start_sweeper(ServerSettings(str(tmp_path))) is None  # a copy of a bundle
    assert start_sweeper(ServerSettings(bundle)) is None
    store = LocalStore(tmp_path / ("log" if named else "store"))
    hashing_key(store, create=True, place=HASHING_KEY)
    names = [log_key(0, 1, "host", 0), shadow_key("f" * 64, "e" * 64, 0, "host", 1)]
    for name in names:
        store.write(name, b"")
    settings = ServerSettings(bundle, options=options)
    assert start_request_log(served(), settings) is None and TRACING.log is None
    sweeper = start_sweeper(settings)
    assert sweeper is not None
    wait(lambda: not any(map(store.exists, names)))
    sweeper.close()


def test_a_sweep_that_fails_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("kserve.predictor").propagate = True
    unreachable = S3Store("s3://b/x", endpoint="http://127.0.0.1:1", attempts=1)
    store = LocalStore(tmp_path)
    store.write(name := log_key(0, 1, "host", 0), b"")
    sweeper = Sweeper([unreachable, store])
    wait(lambda: not store.exists(name))
    sweeper.close()
    assert any("was not deleted from s3://b/x" in record.getMessage() for record in caplog.records)


def test_a_shadow_has_no_log(tmp_path: Path) -> None:
    options = PredictorConfig(request_log_share=1, request_log_store=str(tmp_path))
    shadow = options.for_shadow()
    assert (shadow.request_log_share, shadow.request_log_store) == (0, BUNDLE_STORE)
    assert start_request_log(served(), ServerSettings(str(tmp_path), options=shadow)) is None


def test_damaged_files_are_left_out_with_a_sentence(tmp_path: Path) -> None:
    store, notes = LocalStore(tmp_path), list[str]()
    hour = int(NOW // 3600)
    whole = gzip.compress(b'{"text": "no line of a log"}\n')
    bomb = gzip.compress(bytes(65 << 20))
    for part, content in enumerate((b"", b"no gzip", whole, whole[:-9], bomb)):
        store.write(log_key(hour, 30, "host", part), content)
    store.write(log_key(hour, 30, "host", 9).replace("2027-01-15T08", "2027-02-31T08"), whole)
    assert list(read_log(store, NOW, NOW, notes.append)) == [] and len(notes) == 5
    for note, reason in zip(
        notes, ("end is missing", "gzip", "none of the log", "end is missing", "more than"), strict=True
    ):
        assert reason in note and note.startswith(str(tmp_path))


def test_the_command_chooses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = LocalStore(tmp_path)
    with pytest.raises(UsageError, match=r"no request was ever logged .*--request-log-share"):
        show_log(store, Choice("24h"), now=NOW)
    key = hashing_key(store, create=True, place=HASHING_KEY)
    assert key is not None
    writer = started(store)
    long, ids = "x" * 80, [logged_id(key, "call 7"), logged_id(key, printable("x" * 80))]
    for name, at in (("early", -50 * 3600), ("first", -60), ("refused", -30), (ids[0], 0), (ids[1], -70 * 3600)):
        writer.put(entry(name, NOW + at))
    writer.close(60)

    def shown(**choice: Any) -> list[str]:
        show_log(store, Choice(**{"since": "24h", **choice}), as_json=True, now=NOW)
        return [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()]

    hashed = logged_id(key, "call 7")
    assert shown() == shown(limit=0) == ["first", "refused", hashed] and shown(limit=1) == [hashed]
    assert shown(errors=True) == ["refused"] and shown(request="call 7") == [hashed] and shown(dialogue="x") == []
    assert shown(since="3d")[0] == ids[1] and shown(since="3d")[1] == "early"
    assert shown(since="3d", request=long) == [ids[1]], "the predictor cuts a header"
    show_log(store, Choice("24h"), now=NOW)
    head, first, *_ = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["time", "protocol", "code"] and first.split()[:4] == [
        "2027-01-15T07:59:00.000Z",
        "grpc",
        "OK",
        "10.0",
    ]


SECRET = "the money's under \"the\" floor \\ 'here'"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (invalid(f"Unknown field {printable(SECRET)!r}; known: text."), "Unknown field …; known: text."),
        (invalid(f"The tensor {SECRET[:3] + chr(39)!r} has {chr(34)!r}."), "The tensor … has …."),
        (
            invalid("The parameter 'consent' of a request has no value."),
            "The parameter 'consent' of a request has no value.",
        ),
        (invalid("Unknown tensor \"it's 'consent' or 'text'\"."), "Unknown tensor …."),
        (invalid("Unknown tensor 'a \"text\" here'; 'text' and 'gossip'."), "Unknown tensor …; 'text' and …."),
        (own_words(f'Send {{"instances": {"ab" * 32}}}.'), f'Send {{"instances": {"ab" * 32}}}.'),
        (invalid("The request's body isn't the server's."), "The request's body isn't the server's."),
        (invalid("There are 2 inputs and 3 raw contents."), "There are 2 inputs and 3 raw contents."),
        (unknown_digests({3: "a" * 64}), "This server does not hold the audio of 1 utterance."),
        (internal(SECRET), "The server could not answer this request."),
        (unreadable(2, "face", SECRET), "The face of utterance 2 cannot be read."),
        (RequestError(f"It is {'0123456789abcdef' * 4}."), "It is …."),
    ],
)
def test_a_sentence_without_contents(error: RequestError, sentence: str) -> None:
    assert error.without_contents == sentence


def test_the_stores_that_deployed_predictors_name_are_swept_too(tmp_path: Path) -> None:
    """No predictor may run any more, and monitoring knows its own store alone."""
    store, other, notes = LocalStore(tmp_path / "store"), LocalStore(tmp_path / "log"), list[str]()
    options = {"request_log_store": other.uri, "sample_store": "bundle", "traffic_store": "s3://other/traffic"}
    for service, settings in (
        ("mistere", {"predictor": options}),
        ("local", {}),
        ("odd", {"predictor": {"sample_store": "ftp://x"}}),
    ):
        deployment = Deployment(
            service=service, bundle_location="b", bundle_digest="b" * 64, model_version="1", settings=settings
        )
        store.write(deployment_key(service), deployment.recorded(store))
    other.write(name := log_key(0, 1, "host", 0), b"")
    try_to_sweep(store, NOW, notes.append)
    assert not other.exists(name)
    assert notes[0] == f"1 file of the request log deleted from {other.uri}, whose time is over." and len(notes) == 2
    assert "was deleted from ftp://x: ftp://x: the object store" in notes[1]
    store.write(deployment_key("mistere"), b"damaged")
    notes.clear()
    try_to_sweep(store, NOW, notes.append)
    assert any(note.startswith("Which stores the predictors name cannot be read") for note in notes)
