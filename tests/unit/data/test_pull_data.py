"""Pulling describes a pinned dataset version; each kind of invalid version is rejected with one sentence."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.pull_data.run import describe
from mistere.artifacts.manifests import UtteranceSet
from mistere.artifacts.s3.store import S3Store
from mistere.common.errors import DataError, ExitCode, MistereError, UsageError
from mistere.common.splits import Split
from mistere.data.dataset import DatasetInfo, Utterance
from mistere.data.dataset_writer import write_dataset
from mistere.data.utterances import UtteranceReader
from mistere.data.versions import PinnedData, pin

INFO = DatasetInfo(
    name="small",
    description="A few dialogues.",
    labels=["joy", "neutral"],
    language="en",
    licence="CC0-1.0",
    splits="by dialogue",
    speaker_disjoint=False,
    synthetic=True,
)
DIALOGUES: dict[Split, int] = {"train": 6, "dev": 2, "test": 3}


def rows(**changes: object) -> Iterator[tuple[Split, Utterance]]:
    for split, count in DIALOGUES.items():
        for index in range(count):
            for turn in range(3):
                utterance = Utterance(f"{split}-{index}", turn, INFO.labels[turn % 2], f"turn {turn}", b"no real audio")
                yield split, dataclasses.replace(utterance, **changes)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def fresh_cache(own_cache: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTERE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "small", INFO, rows())
    return tmp_path / "small"


def pin_folder(folder: Path) -> PinnedData:
    return pin(str(folder), str(folder.parent / "remote"))


def describe_folder(folder: Path, max_dialogues: int | None = None) -> UtteranceSet:
    version = pin_folder(folder)
    return describe(version.remote, version.digest, max_dialogues)


def data_error_message(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        describe_folder(folder)
    assert caught.value.exit_code == ExitCode.DATA_REJECTED
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


def test_description_matches_the_dataset(folder: Path) -> None:
    description = describe_folder(folder)
    assert (description.name, description.labels, description.language) == ("small", ["joy", "neutral"], "en")
    assert description.synthetic and not description.speaker_disjoint
    assert description.rows == {"train": 18, "dev": 6, "test": 9} and description.dialogues == DIALOGUES
    assert description.modalities == ["speech", "text"]
    assert [(shard.name, shard.split, shard.rows) for shard in description.shards] == [
        ("dev-00000.parquet", "dev", 6),
        ("test-00000.parquet", "test", 9),
        ("train-00000.parquet", "train", 18),
    ]
    for shard in description.shards:
        data = (folder / shard.name).read_bytes()
        assert shard.md5 == hashlib.md5(data, usedforsecurity=False).hexdigest() and shard.size == len(data)


def test_copied_folder_has_the_same_version(folder: Path, tmp_path: Path) -> None:
    first = pin_folder(folder)
    assert pin_folder(folder) == first
    shutil.copytree(folder, tmp_path / "elsewhere" / "copy")
    copied = pin_folder(tmp_path / "elsewhere" / "copy")
    assert copied.digest == first.digest and first.digest.endswith(".dir")
    described_first, described_copy = (describe(data.remote, data.digest) for data in (first, copied))
    assert described_first.content_digest() == described_copy.content_digest()


@pytest.mark.parametrize(
    ("changes", "modalities"),
    [({"audio": None}, ["text"]), ({"text": None}, ["speech"]), ({"text": None, "audio": None}, [])],
)
def test_modality_without_values_is_absent(changes: dict[str, object], modalities: list[str], tmp_path: Path) -> None:
    write_dataset(tmp_path / "small", INFO, rows(**changes))
    assert describe_folder(tmp_path / "small").modalities == modalities


def test_modality_with_few_values_is_present(tmp_path: Path) -> None:
    few = [(s, u if u.turn == 0 and s == "dev" else dataclasses.replace(u, audio=None)) for s, u in rows()]
    write_dataset(tmp_path / "small", INFO, few)
    assert describe_folder(tmp_path / "small").modalities == ["speech", "text"]


def test_audio_and_speaker_columns_are_optional(folder: Path) -> None:
    for file in folder.glob("*.parquet"):
        pq.write_table(pq.read_table(file).drop_columns(["audio", "speaker"]), file)
    assert describe_folder(folder).modalities == ["text"]


def test_selection_takes_a_share_of_each_split(folder: Path) -> None:
    selection = describe_folder(folder, 5)
    assert selection.dialogues == {"train": 3, "dev": 1, "test": 1} and selection.rows == {
        "train": 9,
        "dev": 3,
        "test": 3,
    }
    assert selection.max_dialogues == 5
    reader = UtteranceReader(selection)
    chosen = {split: {u.dialogue_id for u in reader.stream(split)} for split in DIALOGUES}
    assert {split: len(names) for split, names in chosen.items()} == selection.dialogues
    complete = describe_folder(folder, 11)
    assert (
        complete.dialogues == DIALOGUES
        and complete.test_digest == describe_folder(folder).test_digest != selection.test_digest
    )


def test_split_in_several_shards_is_read_in_order(tmp_path: Path) -> None:
    many = [
        (split, dataclasses.replace(u, dialogue_id=f"{u.dialogue_id}-{n:03}")) for n in range(20) for split, u in rows()
    ]
    write_dataset(tmp_path / "small", INFO, many, max_shard_bytes=1)
    description = describe_folder(tmp_path / "small")
    assert sum(shard.split == "train" for shard in description.shards) == 3 and description.rows["train"] == 360
    read = [(u.dialogue_id, u.turn) for u in UtteranceReader(description).stream("train")]
    assert read == [(u.dialogue_id, u.turn) for split, u in many if split == "train"]


def test_dataset_below_the_tracked_folder_is_found(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    folder.rename(tmp_path / "data" / "small")
    remote = tmp_path / "remote"
    (tmp_path / "data" / "dataset.yaml").touch()
    digest = _version_without(remote, pin(str(tmp_path / "data"), str(remote)).digest, "dataset.yaml")
    description = describe(str(remote), digest)
    assert [shard.name for shard in description.shards] == [
        f"small/{split}-00000.parquet" for split in sorted(DIALOGUES)
    ]
    assert len(list(UtteranceReader(description).stream("test"))) == 9


def _version_without(remote: Path, digest: str, name: str) -> str:
    """Write another version into the remote without one file; return its digest."""
    listing = [e for e in json.loads(_object(remote, digest).read_text()) if e["relpath"] != name]
    text = json.dumps(listing, sort_keys=True).encode()
    other = hashlib.md5(text, usedforsecurity=False).hexdigest() + ".dir"
    _object(remote, other).parent.mkdir(parents=True, exist_ok=True)
    _object(remote, other).write_bytes(text)
    return other


def test_shards_outside_the_dataset_folder_are_ignored(folder: Path) -> None:
    (folder / "old").mkdir()
    shutil.copyfile(folder / "train-00000.parquet", folder / "old" / "train-00001.parquet")
    shutil.copyfile(folder / "train-00000.parquet", folder / "notes.parquet")
    assert describe_folder(folder).rows == {"train": 18, "dev": 6, "test": 9}


def drop_label_column(folder: Path) -> None:
    file = folder / "dev-00000.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["label"]), file)


def write_text_as_parquet(folder: Path) -> None:
    (folder / "test-00000.parquet").write_text("split,label\n")


def truncate_shard(folder: Path) -> None:
    file = folder / "test-00000.parquet"
    file.write_bytes(file.read_bytes()[:-20])


def write_empty_shard(folder: Path) -> None:
    (folder / "test-00000.parquet").write_bytes(b"")


def add_second_dataset_yaml(folder: Path) -> None:
    (folder / "copy").mkdir()
    shutil.copyfile(folder / "dataset.yaml", folder / "copy" / "dataset.yaml")


def remove_test_split(folder: Path) -> None:
    (folder / "test-00000.parquet").unlink()


def remove_dataset_yaml(folder: Path) -> None:
    (folder / "dataset.yaml").unlink()


def write_dataset_yaml(text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "dataset.yaml").write_text(text)

    return change


def remove_test_rows(folder: Path) -> None:
    file = folder / "test-00000.parquet"
    pq.write_table(pq.read_table(file).slice(0, 0), file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_label_column, "dev-00000.parquet lacks the column 'label': every utterance needs a value in it."),
        (write_text_as_parquet, "test-00000.parquet is not readable parquet ("),
        (truncate_shard, "test-00000.parquet is not readable parquet ("),
        (write_empty_shard, "test-00000.parquet is not readable parquet ("),
        (remove_test_split, "dataset 'small' has no test split: expected test-*.parquet beside dataset.yaml."),
        (write_dataset_yaml("- a list"), "dataset.yaml: the file: "),
        (write_dataset_yaml(""), "dataset.yaml: the file: "),
        (write_dataset_yaml("name: [a"), "dataset.yaml is not readable YAML ("),
        (write_dataset_yaml("name: only"), "dataset.yaml: description: Field required; correct it."),
    ],
)
def test_invalid_dataset_error_names_the_problem(folder: Path, change: Callable[[Path], None], message: str) -> None:
    change(folder)
    assert message in data_error_message(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            add_second_dataset_yaml,
            "exactly one dataset.yaml beside its shards (found: dataset.yaml, copy/dataset.yaml).",
        ),
        (remove_dataset_yaml, "dataset.yaml is missing: a dataset folder needs one beside its parquet shards."),
    ],
)
def test_folder_that_is_no_dataset_is_a_usage_error(folder: Path, change: Callable[[Path], None], message: str) -> None:
    change(folder)
    with pytest.raises(UsageError) as caught:
        describe_folder(folder)
    assert message in str(caught.value)


def test_split_without_rows_is_described_with_zero(folder: Path) -> None:
    remove_test_rows(folder)
    assert describe_folder(folder).rows["test"] == 0


def _object(remote: Path, md5: str) -> Path:
    return remote / "files" / "md5" / md5[:2] / md5[2:]


def _md5(folder: Path, name: str) -> str:
    return hashlib.md5((folder / name).read_bytes(), usedforsecurity=False).hexdigest()


def _writable(path: Path) -> Path:
    path.chmod(0o644)
    return path


def test_corrupt_remote_object_is_named_and_not_cached(folder: Path) -> None:
    version = pin_folder(folder)
    remote = Path(version.remote)
    content = (folder / "train-00000.parquet").read_bytes()
    stored = _writable(_object(remote, _md5(folder, "train-00000.parquet")))
    stored.write_bytes(content[:-1] + b"x")
    for _ in range(2):
        message = _version_error_message(version)
        assert "data/train-00000.parquet is corrupt in the DVC remote" in message
    stored.write_bytes(content)
    assert describe(version.remote, version.digest).rows["train"] == 18


def _version_error_message(version: PinnedData, code: ExitCode = ExitCode.ERROR) -> str:
    with pytest.raises(MistereError) as caught:
        describe(version.remote, version.digest)
    assert caught.value.exit_code == code
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


def test_missing_remote_object_is_named(folder: Path) -> None:
    version = pin_folder(folder)
    md5 = _md5(folder, "dev-00000.parquet")
    _object(Path(version.remote), md5).unlink()
    assert f"data/dev-00000.parquet ({md5}) is missing from the DVC remote" in _version_error_message(version)


def test_missing_or_corrupt_listing_is_named(folder: Path) -> None:
    version = pin_folder(folder)
    listing = _writable(_object(Path(version.remote), version.digest))
    listing.write_text("[]")
    message = _version_error_message(version)
    assert version.digest in message and ("corrupt" in message or "missing" in message)
    listing.unlink()
    assert version.digest in _version_error_message(version)


def test_missing_remote_is_reported(folder: Path, tmp_path: Path) -> None:
    version = pin_folder(folder)
    assert str(tmp_path / "nowhere") in _version_error_message(PinnedData(version.digest, str(tmp_path / "nowhere")))


@pytest.mark.parametrize("digest", ["", "abc", "0" * 32, "../" * 10 + ".dir"])
def test_invalid_digest_is_rejected(digest: str, tmp_path: Path) -> None:
    message = _version_error_message(PinnedData(digest, str(tmp_path)), ExitCode.USAGE)
    assert "is not the digest of a folder tracked by DVC" in message


def test_fetched_files_are_cached_and_replaced_when_damaged(folder: Path) -> None:
    version = pin_folder(folder)
    reference = describe(version.remote, version.digest)
    hidden = folder.parent / "hidden"
    Path(version.remote).rename(hidden)
    assert describe(version.remote, version.digest) == reference
    hidden.rename(version.remote)
    (cached,) = (folder.parent / "cache" / "dvc").rglob(_md5(folder, "test-00000.parquet")[2:])
    _writable(cached).write_bytes(b"damaged")
    assert len(list(UtteranceReader(reference).stream("test"))) == 9


def test_remote_in_s3_is_described(folder: Path, s3_store: S3Store) -> None:
    version = pin(str(folder), s3_store.uri)
    assert describe(version.remote, version.digest).rows == {"train": 18, "dev": 6, "test": 9}


@pytest.mark.parametrize("source", ["no/such/folder", "no/such/data.dvc", ""])
def test_missing_source_is_a_usage_error(source: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no data at .*|dataset\.yaml is missing.*"):
        pin(str(tmp_path / source) if source else source, str(tmp_path / "remote"))


@pytest.mark.parametrize("text", ["", "outs: []", "outs:\n- path: data", "[", "text"])
def test_dvc_file_without_a_digest_is_a_usage_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "data.dvc").write_text(text)
    with pytest.raises(UsageError, match=r"data\.dvc pins no digest"):
        pin(str(tmp_path / "data.dvc"), "")


def test_dvc_file_outside_a_project_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "data.dvc").write_text(f"outs:\n- md5: {'0' * 32}.dir\n  path: data\n")
    with pytest.raises(UsageError, match=r"is not inside a DVC project"):
        pin(str(tmp_path / "data.dvc"), "")


def test_dataset_is_written_completely_or_not_at_all(tmp_path: Path) -> None:
    def failing_rows() -> Iterator[tuple[Split, Utterance]]:
        yield from list(rows())[:5]
        raise KeyError("broken")

    with pytest.raises(KeyError):
        write_dataset(tmp_path / "small", INFO, failing_rows())
    assert list(tmp_path.glob("*small*")) == []
    write_dataset(tmp_path / "small", INFO, rows())
    with pytest.raises(UsageError, match="is not empty"):
        write_dataset(tmp_path / "small", INFO, rows())
    write_dataset(tmp_path / "again", INFO, rows())
    for file in (tmp_path / "small").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()
    assert pa.parquet.read_schema(tmp_path / "small" / "dev-00000.parquet").names[:2] == ["dialogue_id", "turn"]
