"""Pulling: what a pinned dataset version is described as, and every way it can be wrong in a sentence."""

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
from mistere.artifacts.object_store import S3Store
from mistere.common.errors import DataError, ExitCode
from mistere.common.splits import Split
from mistere.data.dataset import DatasetInfo, Utterance, write_dataset
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


def pinned(folder: Path) -> PinnedData:
    return pin(str(folder), str(folder.parent / "remote"))


def described(folder: Path, max_dialogues: int | None = None) -> UtteranceSet:
    found = pinned(folder)
    return describe(found.remote, found.digest, max_dialogues)


def refused(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        described(folder)
    assert caught.value.exit_code == ExitCode.DATA_REJECTED
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


def test_a_dataset_is_described_as_it_is(folder: Path) -> None:
    found = described(folder)
    assert (found.name, found.labels, found.language) == ("small", ["joy", "neutral"], "en")
    assert found.synthetic and not found.speaker_disjoint
    assert found.rows == {"train": 18, "dev": 6, "test": 9} and found.dialogues == DIALOGUES
    assert found.modalities == ["speech", "text"]
    assert [(shard.name, shard.split, shard.rows) for shard in found.shards] == [
        ("dev-00000.parquet", "dev", 6),
        ("test-00000.parquet", "test", 9),
        ("train-00000.parquet", "train", 18),
    ]
    for shard in found.shards:
        data = (folder / shard.name).read_bytes()
        assert shard.md5 == hashlib.md5(data, usedforsecurity=False).hexdigest() and shard.size == len(data)


def test_the_same_folder_is_the_same_version_anywhere(folder: Path, tmp_path: Path) -> None:
    first = pinned(folder)
    assert pinned(folder) == first
    shutil.copytree(folder, tmp_path / "elsewhere" / "copy")
    again = pinned(tmp_path / "elsewhere" / "copy")
    assert again.digest == first.digest and first.digest.endswith(".dir")
    described_here, described_there = (describe(data.remote, data.digest) for data in (first, again))
    assert described_here.content_digest() == described_there.content_digest()


@pytest.mark.parametrize(
    ("changes", "modalities"),
    [({"audio": None}, ["text"]), ({"text": None}, ["speech"]), ({"text": None, "audio": None}, [])],
)
def test_a_modality_that_no_utterance_has_is_absent(
    changes: dict[str, object], modalities: list[str], tmp_path: Path
) -> None:
    write_dataset(tmp_path / "small", INFO, rows(**changes))
    assert described(tmp_path / "small").modalities == modalities


def test_a_modality_that_few_utterances_have_is_present(tmp_path: Path) -> None:
    few = [(s, u if u.turn == 0 and s == "dev" else dataclasses.replace(u, audio=None)) for s, u in rows()]
    write_dataset(tmp_path / "small", INFO, few)
    assert described(tmp_path / "small").modalities == ["speech", "text"]


def test_columns_beyond_the_required_are_optional(folder: Path) -> None:
    for file in folder.glob("*.parquet"):
        pq.write_table(pq.read_table(file).drop_columns(["audio", "speaker"]), file)
    assert described(folder).modalities == ["text"]


def test_a_selection_takes_a_share_of_every_split_by_name(folder: Path) -> None:
    found = described(folder, 5)
    assert found.dialogues == {"train": 3, "dev": 1, "test": 1} and found.rows == {"train": 9, "dev": 3, "test": 3}
    assert found.max_dialogues == 5
    reader = UtteranceReader(found)
    chosen = {split: {u.dialogue_id for u in reader.stream(split)} for split in DIALOGUES}
    assert {split: len(names) for split, names in chosen.items()} == found.dialogues
    every = described(folder, 11)
    assert every.dialogues == DIALOGUES and every.test_digest == described(folder).test_digest != found.test_digest


def test_a_split_in_several_shards_is_read_in_order(tmp_path: Path) -> None:
    many = [
        (split, dataclasses.replace(u, dialogue_id=f"{u.dialogue_id}-{n:03}")) for n in range(20) for split, u in rows()
    ]
    write_dataset(tmp_path / "small", INFO, many, max_shard_bytes=1)
    found = described(tmp_path / "small")
    assert sum(shard.split == "train" for shard in found.shards) == 3 and found.rows["train"] == 360
    read = [(u.dialogue_id, u.turn) for u in UtteranceReader(found).stream("train")]
    assert read == [(u.dialogue_id, u.turn) for split, u in many if split == "train"]


def test_a_dataset_may_lie_below_the_tracked_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    folder.rename(tmp_path / "data" / "small")
    remote = tmp_path / "remote"
    (tmp_path / "data" / "dataset.yaml").touch()
    digest = _without(remote, pin(str(tmp_path / "data"), str(remote)).digest, "dataset.yaml")
    found = describe(str(remote), digest)
    assert [shard.name for shard in found.shards] == [f"small/{split}-00000.parquet" for split in sorted(DIALOGUES)]
    assert len(list(UtteranceReader(found).stream("test"))) == 9


def _without(remote: Path, digest: str, name: str) -> str:
    """Another version in the remote, without one file."""
    listing = [e for e in json.loads(_object(remote, digest).read_text()) if e["relpath"] != name]
    text = json.dumps(listing, sort_keys=True).encode()
    other = hashlib.md5(text, usedforsecurity=False).hexdigest() + ".dir"
    _object(remote, other).parent.mkdir(parents=True, exist_ok=True)
    _object(remote, other).write_bytes(text)
    return other


def test_shards_that_are_not_beside_the_dataset_yaml_do_not_count(folder: Path) -> None:
    (folder / "old").mkdir()
    shutil.copyfile(folder / "train-00000.parquet", folder / "old" / "train-00001.parquet")
    shutil.copyfile(folder / "train-00000.parquet", folder / "notes.parquet")
    assert described(folder).rows == {"train": 18, "dev": 6, "test": 9}


def drop_label(folder: Path) -> None:
    file = folder / "dev-00000.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["label"]), file)


def no_parquet(folder: Path) -> None:
    (folder / "test-00000.parquet").write_text("split,label\n")


def cut_short(folder: Path) -> None:
    file = folder / "test-00000.parquet"
    file.write_bytes(file.read_bytes()[:-20])


def empty_file(folder: Path) -> None:
    (folder / "test-00000.parquet").write_bytes(b"")


def two_infos(folder: Path) -> None:
    (folder / "copy").mkdir()
    shutil.copyfile(folder / "dataset.yaml", folder / "copy" / "dataset.yaml")


def no_test_split(folder: Path) -> None:
    (folder / "test-00000.parquet").unlink()


def no_info(folder: Path) -> None:
    (folder / "dataset.yaml").unlink()


def info(text: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "dataset.yaml").write_text(text)

    return change


def no_rows(folder: Path) -> None:
    file = folder / "test-00000.parquet"
    pq.write_table(pq.read_table(file).slice(0, 0), file)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (drop_label, "dev-00000.parquet lacks the column 'label': every utterance needs a value in it."),
        (no_parquet, "test-00000.parquet is not readable parquet ("),
        (cut_short, "test-00000.parquet is not readable parquet ("),
        (empty_file, "test-00000.parquet is not readable parquet ("),
        (two_infos, "exactly one dataset.yaml beside its shards (found: dataset.yaml, copy/dataset.yaml)."),
        (no_test_split, "dataset 'small' has no test split: expected test-*.parquet beside dataset.yaml."),
        (no_info, "dataset.yaml is missing: a dataset folder needs one beside its parquet shards."),
        (info("- a list"), "dataset.yaml: the file: "),
        (info(""), "dataset.yaml: the file: "),
        (info("name: [a"), "dataset.yaml is not readable YAML ("),
        (info("name: only"), "dataset.yaml: description: Field required."),
    ],
)
def test_what_is_wrong_is_named(folder: Path, change: Callable[[Path], None], says: str) -> None:
    change(folder)
    assert says in refused(folder)


def test_a_split_without_rows_is_described_with_none(folder: Path) -> None:
    no_rows(folder)
    assert described(folder).rows["test"] == 0


def _object(remote: Path, md5: str) -> Path:
    return remote / "files" / "md5" / md5[:2] / md5[2:]


def _md5(folder: Path, name: str) -> str:
    return hashlib.md5((folder / name).read_bytes(), usedforsecurity=False).hexdigest()


def _writable(path: Path) -> Path:
    path.chmod(0o644)
    return path


def test_a_corrupt_object_in_the_remote_is_named_and_not_kept(folder: Path) -> None:
    found = pinned(folder)
    remote = Path(found.remote)
    whole = (folder / "train-00000.parquet").read_bytes()
    bad = _writable(_object(remote, _md5(folder, "train-00000.parquet")))
    bad.write_bytes(whole[:-1] + b"x")
    for _ in range(2):
        message = _refused_version(found)
        assert "data/train-00000.parquet is corrupt in the DVC remote" in message
    bad.write_bytes(whole)
    assert describe(found.remote, found.digest).rows["train"] == 18


def _refused_version(found: PinnedData) -> str:
    with pytest.raises(DataError) as caught:
        describe(found.remote, found.digest)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


def test_a_missing_object_in_the_remote_is_named(folder: Path) -> None:
    found = pinned(folder)
    gone = _md5(folder, "dev-00000.parquet")
    _object(Path(found.remote), gone).unlink()
    assert f"data/dev-00000.parquet ({gone}) is missing from the DVC remote" in _refused_version(found)


def test_a_missing_or_corrupt_listing_is_named(folder: Path) -> None:
    found = pinned(folder)
    listing = _writable(_object(Path(found.remote), found.digest))
    listing.write_text("[]")
    message = _refused_version(found)
    assert found.digest in message and ("corrupt" in message or "missing" in message)
    listing.unlink()
    assert found.digest in _refused_version(found)


def test_a_remote_that_is_not_there_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    found = pinned(folder)
    assert str(tmp_path / "nowhere") in _refused_version(PinnedData(found.digest, str(tmp_path / "nowhere")))


@pytest.mark.parametrize("digest", ["", "abc", "0" * 32, "../" * 10 + ".dir"])
def test_an_invalid_digest_is_refused(digest: str, tmp_path: Path) -> None:
    assert "is not the digest of a folder tracked by DVC" in _refused_version(PinnedData(digest, str(tmp_path)))


def test_fetched_files_are_cached_and_fetched_again_when_damaged(folder: Path) -> None:
    found = pinned(folder)
    reference = describe(found.remote, found.digest)
    hidden = folder.parent / "hidden"
    Path(found.remote).rename(hidden)
    assert describe(found.remote, found.digest) == reference
    hidden.rename(found.remote)
    (cached,) = (folder.parent / "cache" / "dvc").rglob(_md5(folder, "test-00000.parquet")[2:])
    _writable(cached).write_bytes(b"damaged")
    assert len(list(UtteranceReader(reference).stream("test"))) == 9


def test_a_remote_in_s3_works_like_a_folder(folder: Path, s3_store: S3Store) -> None:
    found = pin(str(folder), s3_store.uri)
    assert describe(found.remote, found.digest).rows == {"train": 18, "dev": 6, "test": 9}


@pytest.mark.parametrize("source", ["no/such/folder", "no/such/data.dvc", ""])
def test_a_source_that_is_not_there_is_a_data_error(source: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no data at .*|dataset\.yaml is missing.*") as caught:
        pin(str(tmp_path / source) if source else source, str(tmp_path / "remote"))
    assert caught.value.exit_code == ExitCode.DATA_REJECTED


@pytest.mark.parametrize("text", ["", "outs: []", "outs:\n- path: data", "[", "text"])
def test_a_dvc_file_that_pins_nothing_is_a_data_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "data.dvc").write_text(text)
    with pytest.raises(DataError, match=r"data\.dvc pins no digest"):
        pin(str(tmp_path / "data.dvc"), "")


def test_a_dvc_file_outside_a_project_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "data.dvc").write_text(f"outs:\n- md5: {'0' * 32}.dir\n  path: data\n")
    with pytest.raises(DataError, match=r"is not inside a DVC project"):
        pin(str(tmp_path / "data.dvc"), "")


def test_a_dataset_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    def breaking() -> Iterator[tuple[Split, Utterance]]:
        yield from list(rows())[:5]
        raise KeyError("broken")

    with pytest.raises(KeyError):
        write_dataset(tmp_path / "small", INFO, breaking())
    assert list(tmp_path.glob("*small*")) == []
    write_dataset(tmp_path / "small", INFO, rows())
    with pytest.raises(DataError, match="is not empty"):
        write_dataset(tmp_path / "small", INFO, rows())
    write_dataset(tmp_path / "again", INFO, rows())
    for file in (tmp_path / "small").iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()
    assert pa.parquet.read_schema(tmp_path / "small" / "dev-00000.parquet").names[:2] == ["dialogue_id", "turn"]
