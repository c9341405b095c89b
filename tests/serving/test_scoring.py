"""``mistere score``: the endpoint's numbers, every dialogue as a whole, resumed with the same bytes, and bad input in one sentence."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mistere.common.errors import ArtifactError, DataError, MistereError, UsageError
from mistere.common.parsing.documents import read_json
from mistere.config.scoring import ScoringConfig
from mistere.data.dataset import Utterance, schema
from mistere.data.kinds.frames import encode_frame
from mistere.scoring.archive import open_archive
from mistere.scoring.results import ResultFolder
from pipelines.cli.commands.score import ChosenModel, folder_name, score
from tests.serving.conftest import LABELS, ROOT, Server, clip, make_bundle, make_vectors_bundle

WORDS = [
    "where",
    "have",
    "you",
    "been",
    "at",
    "home",
    "why",
    "not",
    "today",
    "it",
    "is",
    "late",
    "again",
    "thank",
    "you",
]
INFO = "name: calls\n"
START = datetime(2026, 3, 2, 9)


def archive_rows(dialogues: int, turns: int = 5, *, audio: bool = False) -> list[dict[str, Any]]:
    """Rows of dialogues with a queue, a time and a speaker, and no label."""
    rows = []
    for number in range(dialogues):
        for turn in range(turns + number % 3):
            text = " ".join(WORDS[(number * 7 + turn * 3 + k) % len(WORDS)] for k in range(1 + (number + turn) % 5))
            rows.append(
                {
                    "dialogue_id": f"call-{number:04d}",
                    "turn": turn,
                    "text": text if (number + turn) % 4 else None,
                    "audio": {"bytes": clip(0.3 + 0.1 * (turn % 3), pitch=200 + 11 * number + turn)} if audio else None,
                    "speaker": f"Jane Doe {number}",
                    "queue": ("sales", "help")[number % 2],
                    "begun": START + timedelta(hours=5 * number),
                }
            )
    return rows


def write_archive(folder: Path, rows: list[dict[str, Any]], shards: int = 1, info: str = INFO) -> Path:
    """Write rows in shards of equal size, so that dialogues go on in the next one."""
    folder.mkdir(parents=True)
    (folder / "dataset.yaml").write_text(info)
    columns = [field for field in schema() if field.name != "label"]
    columns += [pa.field("queue", pa.string()), pa.field("begun", pa.timestamp("us"))]
    for number in range(shards):
        part = rows[len(rows) * number // shards : len(rows) * (number + 1) // shards]
        pq.write_table(pa.Table.from_pylist(part, schema=pa.schema(columns)), folder / f"test-{number:05d}.parquet")
    return folder


def run_score(data: Path, bundle: str, to: Path, **settings: Any) -> Path:
    score(str(data), bundle, {"cache": "off", "min_calls": 2, **settings}, to.parent, to)
    return to


def turns_of(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((folder / "turns").iterdir()) for row in pq.read_table(path).to_pylist()]


@pytest.fixture(scope="module")
def text_bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_bundle(tmp_path_factory.mktemp("text"), ("text",))


def test_the_numbers_are_those_of_the_endpoint(bundle: str, server: Server, tmp_path: Path) -> None:
    rows = archive_rows(6, audio=True)
    rows[3]["text"] = rows[3]["audio"] = None
    data = write_archive(tmp_path / "data", rows, shards=3)
    scored = turns_of(run_score(data, bundle, tmp_path / "scores"))
    assert [(row["dialogue_id"], row["turn"]) for row in scored] == [(row["dialogue_id"], row["turn"]) for row in rows]
    for name in {row["dialogue_id"] for row in rows}:
        turns = [
            Utterance(name, row["turn"], None, row["text"], (row["audio"] or {}).get("bytes"))
            for row in rows
            if row["dialogue_id"] == name
        ]
        answer = server.client.predict_rest(turns)
        mine = [row for row in scored if row["dialogue_id"] == name]
        assert [row["label"] for row in mine] == answer.predicted
        probabilities = [[row[f"probability_{label}"] for label in LABELS] for row in mine]
        np.testing.assert_allclose(probabilities, answer.probabilities, rtol=0, atol=1e-4)
        weights = [[row[f"weight_{expert}"] for expert in answer.experts] for row in mine]
        np.testing.assert_allclose(weights, answer.expert_weights, rtol=0, atol=1e-4)
        assert [row["modalities"] for row in mine] == answer.modalities
        assert {row["bundle_digest"] for row in mine} == {answer.parameters["bundle_digest"]}


def test_results_name_no_speaker_and_do_not_depend_on_the_shards(text_bundle: str, tmp_path: Path) -> None:
    rows = archive_rows(30)
    one = run_score(write_archive(tmp_path / "one", rows), text_bundle, tmp_path / "a", by=["queue"], time="begun")
    four = run_score(write_archive(tmp_path / "four", rows, 4), text_bundle, tmp_path / "b", by=["queue"], time="begun")
    assert close(turns_of(one), turns_of(four))
    calls = pq.read_table(one / "calls.parquet")
    sharded = pq.read_table(four / "calls.parquet").drop_columns(["shard"]).to_pylist()
    assert close(calls.drop_columns(["shard"]).to_pylist(), sharded)
    names = {*calls.column_names, *pq.read_schema(one / "turns" / "test-00000.parquet").names}
    assert not [name for name in names if "speaker" in name]
    for path in one.rglob("*"):
        assert path.is_dir() or b"Jane Doe" not in path.read_bytes(), path
    first = calls.to_pylist()[0]
    assert first["time"] == START and first["queue"] == "sales" and first["scored_turns"] == 5
    shares = [first[f"share_{label}"] for label in LABELS]
    assert sum(shares) == pytest.approx(1) and first["share_low_joy"] <= first["share_joy"] <= first["share_high_joy"]
    page = (one / "scores.html").read_text()
    assert (
        "<script" not in page
        and "http://" not in page.replace("http://www.w3.org", "")
        and "By <bdi>queue</bdi>" in page
    )


def close(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> bool:
    """Whether rows are equal but for the rounding of another batch."""
    return len(rows) == len(others) and all(
        value == pytest.approx(other[name], abs=1e-6) if isinstance(value, float) else value == other[name]
        for one, other in zip(rows, others, strict=True)
        for name, value in one.items()
    )


@pytest.mark.long
def test_dialogues_longer_than_the_endpoints_limit_are_scored(text_bundle: str, tmp_path: Path) -> None:
    rows = [{"dialogue_id": "long", "turn": turn, "text": WORDS[turn % len(WORDS)]} for turn in range(2600)]
    scored = turns_of(run_score(write_archive(tmp_path / "data", rows, 2), text_bundle, tmp_path / "scores"))
    assert len(scored) == 2600 and all(row["label"] for row in scored)
    (call,) = pq.read_table(tmp_path / "scores" / "calls.parquet").to_pylist()
    assert call["turns"] == 2600 and call["shard"] == "test-00000.parquet"


def test_any_modality_of_the_bundle_is_read(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", ("text", "face", "acoustic"))
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "dataset.yaml").write_text(
        "name: faces\nmodalities: {face: frames, acoustic: vector}\npredict_roles: [customer]\n"
    )
    image = encode_frame(np.full((40, 40, 3), 90, np.uint8))
    rows = [
        {"dialogue_id": "d", "turn": 0, "text": "Hello.", "face": [image], "acoustic": [1.0] * 12, "role": "customer"},
        {"dialogue_id": "d", "turn": 1, "text": "Hi.", "role": "agent"},
        {"dialogue_id": "d", "turn": 2, "face": [image], "role": "customer"},
        {"dialogue_id": "nothing", "turn": 0, "role": "customer"},
    ]
    types = {"dialogue_id": pa.string(), "turn": pa.int64(), "text": pa.string(), "role": pa.string()}
    types |= {"face": pa.list_(pa.binary()), "acoustic": pa.list_(pa.float32())}
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(types)), folder / "a.parquet")
    scored = turns_of(run_score(folder, bundle, tmp_path / "scores"))
    assert [row["modalities"] for row in scored] == ["text+face+acoustic", "text", "face", "none"]
    assert [bool(row["label"]) for row in scored] == [True, False, True, False]
    assert scored[1]["probability_joy"] is None and scored[1]["weight_text"] is None
    calls = pq.read_table(tmp_path / "scores" / "calls.parquet").to_pylist()
    assert [call["scored_turns"] for call in calls] == [2, 0] and calls[1]["share_joy"] is None


def test_a_recording_that_does_not_decode_is_left_out_or_ends_the_scoring(
    bundle: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = archive_rows(2, audio=True)
    rows[1]["audio"] = {"bytes": b"RIFF no audio"}
    data = write_archive(tmp_path / "data", rows)
    scored = turns_of(run_score(data, bundle, tmp_path / "a"))
    assert scored[1]["modalities"] == "text" and "1 value does not decode" in capsys.readouterr().out
    with pytest.raises(DataError, match=r"dialogue 'call-0000', turn 1: .*: fix it, or score without it"):
        run_score(data, bundle, tmp_path / "b", undecodable="fail")
    assert not list((tmp_path / "b").rglob("*.parquet"))


def test_encoders_in_integers_are_close_and_never_mixed_with_others(bundle: str, tmp_path: Path) -> None:
    data = write_archive(tmp_path / "data", archive_rows(4, audio=True))
    cache = f"{tmp_path / 'cache'}"
    exact = turns_of(run_score(data, bundle, tmp_path / "exact", cache=cache))
    folder = run_score(data, bundle, tmp_path / "integers", cache=cache, int8=True)
    names = [f"probability_{label}" for label in LABELS]
    difference = [abs(a[name] - b[name]) for a, b in zip(exact, turns_of(folder), strict=True) for name in names]
    assert 0 < max(difference) < 0.05, "the vectors of the other precision are not taken from the cache"
    assert "encoders in 8-bit integers" in (folder / "scores.html").read_text()
    with pytest.raises(UsageError, match=r"holds the scores of encoders in 8-bit integers \(--int8\): choose another"):
        run_score(data, bundle, folder, cache=cache)
    before = files(folder)
    (folder / "scores.json").unlink()
    run_score(data, bundle, folder, cache=cache, int8=True)
    assert files(folder) == before


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@pytest.fixture
def scoring_process(text_bundle: str, tmp_path: Path) -> Iterator[Any]:
    """Starts ``mistere score`` in a process."""
    started: list[subprocess.Popen[bytes]] = []

    def start(data: Path, to: Path) -> subprocess.Popen[bytes]:
        command = ["score", str(data), "--model", text_bundle, "--to", str(to), "--min-calls", "2"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "mistere", *command], cwd=ROOT, env=environment, stdout=subprocess.PIPE
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.long
def test_killed_and_resumed_gives_the_same_bytes(scoring_process: Any, tmp_path: Path) -> None:
    data = write_archive(tmp_path / "data", archive_rows(800), 8)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert scoring_process(data, whole).wait(300) == 0
    shutil.rmtree(Path(shutil.os.environ["MISTERE_CACHE"]) / "vectors", ignore_errors=True)  # type: ignore[attr-defined]
    kills = 0
    while kills < 3:
        process, before = scoring_process(data, resumed), len(list(resumed.glob("turns/*.parquet")))
        deadline = time.monotonic() + 120
        while process.poll() is None and len(list(resumed.glob("turns/*.parquet"))) < min(before + 2, 8):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert not (resumed / "scores.json").exists() or kills == 3
    assert scoring_process(data, resumed).wait(300) == 0
    assert files(resumed) == files(whole)


def test_an_interrupted_shard_leaves_nothing_and_is_scored_again(
    text_bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_archive(tmp_path / "data", archive_rows(12), 3)
    whole = run_score(data, text_bundle, tmp_path / "whole")
    summaries = ResultFolder.remember

    def stop_after_the_first(self: ResultFolder, summary: Any) -> None:
        summaries(self, summary)
        raise MistereError("the disk is full")

    with monkeypatch.context() as failing, pytest.raises(MistereError):
        failing.setattr(ResultFolder, "remember", stop_after_the_first)
        run_score(data, text_bundle, tmp_path / "resumed")
    assert [path.name for path in (tmp_path / "resumed" / "turns").iterdir()] == ["test-00000.parquet"]
    (tmp_path / "resumed" / "turns" / ".test-00001.parquet.partial").write_bytes(b"cut short")
    assert files(run_score(data, text_bundle, tmp_path / "resumed")) == files(whole)
    again = run_score(data, text_bundle, tmp_path / "resumed", min_calls=5)
    assert {name for name, data in files(again).items() if files(whole)[name] != data} == {"scores.html", "scores.json"}


def test_a_refused_setting_does_not_block_the_folder(text_bundle: str, tmp_path: Path) -> None:
    rows = [dict(row, queue=row["dialogue_id"]) for row in archive_rows(210, 1)]
    data, to = write_archive(tmp_path / "data", rows), make_folder(tmp_path / "scores")
    (to / ".plan.json.partial").write_text("{")  # a process was killed while it wrote the plan
    with pytest.raises(UsageError, match="'queue' has more than 200 values, too many to be groups"):
        run_score(data, text_bundle, to, by=["queue"])
    assert not list(to.rglob("*.parquet"))
    run_score(data, text_bundle, to, time="begun")
    assert (to / "scores.html").is_file() and not list(to.rglob("*.partial"))


def test_results_keep_the_version_that_they_were_begun_with(
    text_bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, to = write_archive(tmp_path / "data", archive_rows(3)), tmp_path / "scores"
    run_score(data, text_bundle, to)
    monkeypatch.setattr("pipelines.cli.commands.score.choose_model", lambda *_: ChosenModel(text_bundle, "7"))
    capsys.readouterr()
    run_score(data, text_bundle, to)
    assert "with the model (bundle" in capsys.readouterr().out
    assert read_json(to / "scores.json")["plan"]["model_version"] == "" == turns_of(to)[0]["model_version"]


@pytest.mark.parametrize("name", ["calls.parquet", "turns/test-00000.parquet"])
def test_a_table_that_was_changed_is_not_reported_again(text_bundle: str, tmp_path: Path, name: str) -> None:
    data, to = write_archive(tmp_path / "data", archive_rows(3)), tmp_path / "scores"
    table = run_score(data, text_bundle, to) / name
    table.write_bytes(table.read_bytes()[:-40])
    with pytest.raises(
        ArtifactError, match=rf"{name} is not as it was written; delete .* to score again, or name another"
    ):
        run_score(data, text_bundle, to)


@pytest.mark.long
def test_the_cache_changes_no_byte(text_bundle: str, tmp_path: Path) -> None:
    data = write_archive(tmp_path / "data", archive_rows(8), 2)
    cold = run_score(data, text_bundle, tmp_path / "cold")
    for name in ("filled", "warm"):
        assert files(run_score(data, text_bundle, tmp_path / name, cache=str(tmp_path / "cache"))) == files(cold)


@pytest.mark.long
def test_bad_input_is_one_sentence(text_bundle: str, bundle: str, tmp_path: Path) -> None:
    rows = archive_rows(3)
    data = write_archive(tmp_path / "data", rows, 2)

    def refused(
        kind: type[MistereError], message: str, folder: Path = data, model: str | None = text_bundle, **settings: Any
    ) -> None:
        to = settings.pop("to", tmp_path / "refused")
        with pytest.raises(kind, match=message) as caught:
            score(str(folder), model, {"cache": "off", **settings}, tmp_path / "output", to)
        assert "\n" not in str(caught.value)

    refused(UsageError, "there is no data at nowhere", Path("nowhere"))
    refused(UsageError, "nothing has run in", model=None)
    (tmp_path / "output" / "store").mkdir(parents=True)
    refused(
        UsageError, "no model has been released in .*: name one with --model, or run the pipeline first", model=None
    )
    refused(UsageError, "there is no bundle at", model=str(tmp_path))
    missing = text_bundle.rpartition("/")[0] + "/" + "f" * 64
    refused(ArtifactError, "ModelBundle ffffffffffff is not in the store", model=missing)
    vectors = make_vectors_bundle(make_folder(tmp_path / "vectors"), {"text": 8}, {})
    refused(UsageError, "takes vectors and has no encoders", model=vectors, to=tmp_path / "v")
    speech = make_bundle(tmp_path / "speech", ("speech",))
    refused(UsageError, "the model reads speech, and the dataset has text", model=speech, to=tmp_path / "s")
    refused(UsageError, r"has no column 'qeue'; did you mean 'queue'", by=["qeue"], to=tmp_path / "c")
    refused(UsageError, "results never say who spoke", by=["speaker"])
    refused(UsageError, "text is a column of turns", by=["text"], to=tmp_path / "t")
    refused(UsageError, "is timestamp.us.: name one of texts", by=["begun"], to=tmp_path / "g")
    empty = write_archive(tmp_path / "empty", [])
    refused(DataError, "the dataset calls holds no turns: there is nothing to score", empty, to=tmp_path / "e")
    for path in empty.glob("*.parquet"):
        path.unlink()
    refused(DataError, "holds no .*parquet beside dataset.yaml", empty)
    broken = write_archive(tmp_path / "broken", rows)
    (broken / "test-00001.parquet").write_bytes(b"PAR1 cut")
    refused(DataError, "test-00001.parquet is not readable parquet", broken, to=tmp_path / "x")
    shuffled = write_archive(tmp_path / "shuffled", [rows[1], rows[0], *rows[2:]])
    refused(DataError, "turn 0 of dialogue 'call-0000' follows turn 1", shuffled, to=tmp_path / "y")
    apart = write_archive(tmp_path / "apart", [*rows[1:], dict(rows[0], turn=9)])
    refused(DataError, "the turns of dialogue 'call-0000' are apart", apart, to=tmp_path / "z")
    run_score(data, text_bundle, tmp_path / "scores")
    refused(UsageError, "holds the scores of another dataset", broken, to=tmp_path / "scores")
    refused(UsageError, "holds the scores of another model", model=bundle, to=tmp_path / "scores")
    refused(UsageError, "holds the scores of other settings", by=["queue"], to=tmp_path / "scores")
    refused(UsageError, r"is not empty \(dataset.yaml\)", to=data)


def test_the_folder_follows_from_what_decides_the_tables(text_bundle: str, tmp_path: Path) -> None:
    archive = open_archive(str(write_archive(tmp_path / "data", archive_rows(2))))
    digest = text_bundle.rpartition("/")[2]

    def name(**settings: Any) -> str:
        return folder_name(archive, digest, ScoringConfig(**settings))

    plain = f"calls-{archive.digest[:8]}-{digest[:8]}"
    assert {name(), name(min_calls=2, cache="off", by=[])} == {plain}
    others = [
        {"by": ["queue"]},
        {"by": ["queue", "begun"]},
        {"by": ["begun", "queue"]},
        {"time": "queue"},
        {"int8": True},
        {"undecodable": "fail"},
    ]
    names = {name(**settings) for settings in others}
    assert len(names) == len(others) and all(one.startswith(f"{plain}-") for one in names)
    for by in ([], ["queue"]):  # neither refuses the other's results
        score(str(tmp_path / "data"), text_bundle, {"cache": "off", "min_calls": 2, "by": by}, tmp_path)
    assert {path.name for path in (tmp_path / "scores").iterdir()} == {plain, name(by=["queue"])}
    with pytest.raises(UsageError, match="has no column"):
        score(str(tmp_path / "data"), text_bundle, {"cache": "off", "by": ["qeue"]}, tmp_path)
    assert len(list((tmp_path / "scores").iterdir())) == 2, "a refused scoring leaves no folder"


def make_folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_a_turn_that_repeats_another_has_its_score(text_bundle: str, tmp_path: Path) -> None:
    rows = [dict(row, dialogue_id=f"again-{row['dialogue_id']}") for row in archive_rows(2)]
    scored = turns_of(
        run_score(write_archive(tmp_path / "data", archive_rows(2) + rows), text_bundle, tmp_path / "scores")
    )
    half = len(scored) // 2
    for one, other in zip(scored[:half], scored[half:], strict=True):
        assert close([{**one, "dialogue_id": ""}], [{**other, "dialogue_id": ""}])
