"""Kinds of modalities: stored, read, checked, compared and validated by name."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from components.pull_data.run import describe
from components.validate_data.config import ValidationConfig
from components.validate_data.dataset import Declared
from components.validate_data.facts.dataset_facts import ShardFile
from components.validate_data.validation import validate
from components.validate_data.verdict import Validation
from mistere.artifacts.manifests import UtteranceSet
from mistere.common.errors import DataError, UsageError
from mistere.common.modalities import cell_of
from mistere.common.splits import SPLITS, Split
from mistere.config.encoder import EncoderConfig
from mistere.data.dataset import Utterance, load_info, read_utterances, shards_of
from mistere.data.diff import diff_datasets
from mistere.data.kinds import kind_of, kinds
from mistere.data.kinds.frames import MAX_FRAMES, decode_frame, encode_frame, spread
from mistere.data.kinds.kind import Kind, UnreadableError
from mistere.data.kinds.vector import MAX_WIDTH
from mistere.data.local_dataset import read_dataset
from mistere.data.utterances import UtteranceReader
from mistere.data.versions import pin
from tests.local.workshop import info, make_dataset, rows

KINDS = {"face": "frames", "acoustic": "vector"}
SETTINGS = EncoderConfig(source="", max_frames=2)


def image(size: tuple[int, int] = (12, 10), form: str = "PNG", shade: int = 90) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", size, (shade, 20, 200)).save(buffer, form)
    return buffer.getvalue()


def claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header states a huge size."""
    import struct
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


CELLS: dict[str, Any] = {
    "text": "good morning",
    "audio": next(rows())[1].audio,
    "vector": np.array([0.5, -2.0, 3.0], np.float32),
    "frames": (image(), image(form="JPEG")),
}


def with_others(width: int = 3) -> Iterator[tuple[Split, Utterance]]:
    """The rows with an image and a vector; the second turn of each dialogue has neither."""
    for index, (split, utterance) in enumerate(rows(audio=False)):
        cells = {"face": (image(shade=index),), "acoustic": np.full(width, index, np.float32)}
        yield split, utterance if utterance.turn == 1 else replace(utterance, others=cells)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("faces") / "data", with_others(), modalities=KINDS)


def test_every_kind_has_a_case_here_and_a_name_of_its_own() -> None:
    assert set(kinds()) == set(CELLS)
    degradations = [name for kind in kinds().values() for name in kind.degradations]
    assert len(set(degradations)) == len(degradations)
    with pytest.raises(UsageError, match="no kind of modality 'frame'; did you mean 'frames'"):
        kind_of("frame")


@pytest.mark.parametrize("name", sorted(CELLS))
class TestKind:
    """What holds for every kind."""

    def test_a_column_reads_back(self, name: str) -> None:
        kind, cell = kind_of(name), CELLS[name]
        column = pa.array([kind.write(cell), None], kind.arrow_type())
        first, second = kind.cells(column)
        assert kind.digest(first) == kind.digest(cell) and second is None
        assert kind.can_read(column.type) and not kind.can_read(pa.int32())
        assert kind.cells(pa.nulls(2)) == [None, None] and kind.can_read(pa.null())

    def test_a_tensor_reads_back(self, name: str) -> None:
        kind, cell = kind_of(name), CELLS[name]
        sent = kind.sent(cell)
        assert kind.digest(kind.received(sent)) == kind.digest(cell)
        nothing = np.full(3, np.nan, np.float32) if kind.datatype == "FP32" else [b""] * len(sent)
        assert kind.received(nothing) is None

    def test_a_good_cell_has_no_problem_and_an_input(self, name: str) -> None:
        kind, cell = kind_of(name), CELLS[name]
        assert kind.problem(cell) == kind.problem(cell, thorough=True) == ""
        assert kind.encoder_input(cell, SETTINGS) is not None
        assert kind.tokens(cell, SETTINGS) > 0 and kind.size(cell) > 0

    def test_degradations_change_a_cell_and_repeat(self, name: str) -> None:
        kind, cell = kind_of(name), CELLS[name]
        if name == "vector":
            cell = np.arange(1, 65, dtype=np.float32)
        if name == "text":
            cell = " ".join("abcdefghijklmnopqrstuvwxyz")
        for each in kind.degradations.values():
            once, again = (each.change(cell, np.random.default_rng(3)) for _ in range(2))
            assert kind.digest(once) == kind.digest(again) != kind.digest(cell), each.words


def test_digests_of_equal_bytes_differ_between_kinds() -> None:
    assert kind_of("text").digest("a") != kind_of("audio").digest(b"a") != kind_of("frames").digest((b"a",))
    assert kind_of("text").digest("a", ("b",)) != kind_of("text").digest("ab") != kind_of("text").digest("a")
    assert kind_of("frames").digest((b"a", b"b")) != kind_of("frames").digest((b"ab",))


@pytest.mark.parametrize(
    ("name", "cell", "thorough", "problem"),
    [
        ("frames", (image(), b"GIF89a"), False, "Frame 1 is no JPEG or PNG image"),
        ("frames", (claims(60000, 60000),), False, "Frame 0 has more than 8294400 pixels"),
        ("frames", (claims(4000, 4000),), False, "4000 x 4000 pixels"),
        (
            "frames",
            (encode_frame(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8))[:2000],),
            True,
            "does not decode",
        ),
        ("frames", (image(),) * (MAX_FRAMES + 1), False, "There are 65 frames"),
        ("frames", (b"x" * (9 << 20),), False, "9437184 bytes"),
        ("vector", np.array([1.0, np.inf], np.float32), False, "NaN or infinity"),
        ("vector", np.zeros(MAX_WIDTH + 1, np.float32), False, "16385 values"),
        ("audio", b"noise", False, "does not decode"),
    ],
)
def test_a_bad_cell_is_one_sentence(name: str, cell: Any, thorough: bool, problem: str) -> None:
    import re

    kind = kind_of(name)
    sentence = kind.problem(cell, thorough=thorough)
    assert re.search(problem, sentence) and sentence.endswith(".") and "\n" not in sentence
    with pytest.raises(UnreadableError):
        kind.encoder_input(cell, SETTINGS.model_copy(update={"max_frames": 64}))


def test_frames_are_spread_over_the_utterance() -> None:
    assert spread(3, 8) == [0, 1, 2] and spread(9, 3) == [0, 4, 8] and spread(5, 1) == [0]
    pixels = np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
    np.testing.assert_array_equal(decode_frame(encode_frame(pixels)), pixels)


def test_a_dataset_reads_back_with_the_wanted_modalities(dataset: Path, tmp_path: Path) -> None:
    described = load_info(dataset / "dataset.yaml")
    assert described.modalities == KINDS and list(described.kinds) == ["speech", "text", "face", "acoustic"]
    local = read_dataset(dataset)
    first, second = list(local.utterances("train"))[:2]
    assert decode_frame(first.others["face"][0])[0, 0].tolist() == [0, 20, 200]
    assert cell_of(first, "acoustic").tolist() == [0, 0, 0] and cell_of(first, "text") == first.text
    assert second.others == {} and cell_of(second, "face") is None
    (only, *_) = local.utterances("train", modalities=("acoustic",))
    assert set(only.others) == {"acoustic"} and only.text is None
    with pytest.raises(UsageError, match="no modality 'faces'; did you mean 'face'"):
        local.utterances("train", modalities=("faces",))
    again = make_dataset(tmp_path / "again", with_others(), modalities=KINDS)
    assert all((again / file.name).read_bytes() == file.read_bytes() for file in dataset.iterdir())


def test_a_dataset_without_further_modalities_has_the_old_form(tmp_path: Path) -> None:
    plain = make_dataset(tmp_path / "plain", with_others())
    assert "modalities" not in (plain / "dataset.yaml").read_text()
    names = pq.read_schema(next(plain.glob("*.parquet"))).names
    assert names == ["dialogue_id", "turn", "text", "audio", "label", "speaker"]


@pytest.mark.parametrize(
    ("modalities", "message"),
    [
        ({"face": "frame"}, "did you mean 'frames'"),
        ({"Face": "frames"}, "lower-case letters"),
        ({"label": "text"}, "cannot be the name"),
        ({"x_embedding": "vector"}, "has another meaning here"),
    ],
)
def test_an_impossible_modality_is_refused(modalities: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        info(modalities=modalities)


def test_the_reference_names_kinds_and_old_ones_load(dataset: Path, tmp_path: Path) -> None:
    pinned = pin(str(dataset), str(tmp_path / "remote"))
    reference = describe(pinned.remote, pinned.digest)
    assert reference.modalities == ["text", "face", "acoustic"] and reference.kinds["face"] == "frames"
    reader = UtteranceReader(reference)
    assert set(next(reader.stream("dev", ("face", "text"))).others) == {"face"}
    assert set(next(reader.stream("dev")).others) == {"face", "acoustic"}
    plain = pin(str(make_dataset(tmp_path / "plain", rows(audio=False))), str(tmp_path / "other"))
    old = describe(plain.remote, plain.digest)
    dumped = old.model_dump(mode="json")
    assert "kinds" not in dumped and UtteranceSet.model_validate(dumped).kinds == {"speech": "audio", "text": "text"}


def test_a_column_of_another_kind_is_refused(dataset: Path) -> None:
    shards = shards_of(dataset.iterdir(), "test")
    with pytest.raises(
        DataError, match=r"'acoustic' of a shard is list<.*>; for the modality acoustic it must be a list of JPEG"
    ):
        list(read_utterances(shards, modalities={"acoustic": "frames"}))


def test_versions_are_compared_by_modality(dataset: Path, tmp_path: Path) -> None:
    changed = make_dataset(
        tmp_path / "changed",
        (
            (
                split,
                replace(u, others={**u.others, "acoustic": np.ones(3, np.float32)}) if u.dialogue_id == "dev-0" else u,
            )
            for split, u in with_others()
        ),
        modalities=KINDS,
    )
    versions = [pin(str(folder), str(tmp_path / "remote")) for folder in (dataset, changed)]
    difference = diff_datasets(*versions)
    assert set(difference.others) == {"acoustic"} and difference.others["acoustic"].count == 4
    assert difference.text.count == difference.audio.count == 0


def checked(folder: Path, **settings: Any) -> Validation:
    files = [ShardFile(split, path, path.name) for split in SPLITS for path in shards_of(folder.iterdir(), split)]
    described = load_info(folder / "dataset.yaml")
    declared = Declared(described.name, described.labels, "en", True, described.modalities)
    return validate(files, declared, ValidationConfig(**settings))


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Validation:
    def spoilt() -> Iterator[tuple[Split, Utterance]]:
        for split, utterance in with_others():
            others = dict(utterance.others)
            if (utterance.dialogue_id, utterance.turn) == ("train-0", 0):
                others["face"] = (image(), b"not an image")
            if (utterance.dialogue_id, utterance.turn) == ("dev-1", 2):
                others["acoustic"] = np.ones(4, np.float32)
            yield split, replace(utterance, others=others)

    return checked(make_dataset(tmp_path_factory.mktemp("faulty") / "data", spoilt(), modalities=KINDS))


def test_validation_names_the_bad_cell_and_the_missing_share(faulty: Validation) -> None:
    sentences = "\n".join(faulty.failed)
    assert "face of train/train-0/turn 0: frame 1 is no JPEG or PNG image" in sentences
    assert "acoustic of dev/dev-1/turn 2: 4 values, not 3" in sentences
    assert any("face: 18 of 72 utterances" in sentence for sentence in faulty.warnings)


def test_a_good_dataset_of_a_single_further_modality_passes(tmp_path: Path) -> None:
    only = (
        (split, replace(u, text=None, audio=None, others={"acoustic": np.ones(3, np.float32) * i}))
        for i, (split, u) in enumerate(rows(audio=False))
    )
    outcome = checked(make_dataset(tmp_path / "vectors", only, modalities={"acoustic": "vector"}))
    assert outcome.failed == []
    assert "acoustic" in set(outcome.tables["modalities"]["modality"])


def test_a_kind_states_what_a_new_one_needs() -> None:
    assert {"leaf", "read", "content", "problem", "encoder_input", "received"} <= Kind.__abstractmethods__
