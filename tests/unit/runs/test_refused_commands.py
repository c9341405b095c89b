"""A refused command leaves no folder that it has made, and touches none that was there."""

from __future__ import annotations

from pathlib import Path

import pytest

from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import ExitCode
from mistere.common.paths import missing_folders, removed_if_refused
from tests.local.workshop import mistere_in_process
from tests.unit.traffic.monitored_store import make_champion


def content(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize(
    "command",
    [
        "run --profile tiny --data {0}/nosuch --output {0}/a/b",
        "run --profile tiny --data {0}/empty --output {0}/a",
        "run --profile tiny --if-drifted --output {0}/a",
        "run --profile tiny --set deployment.mode=standard --output {0}/a",
        "register {0}/nosuch --output {0}/a/b",
        "train --embeddings {0}/nosuch --register {0}/a",
        "tune --embeddings {0}/nosuch --output {0}/a",
        "score {0}/nosuch --output {0}/a",
        "robustness {0}/nosuch --output {0}/a",
        "monitor --output {0}/a",
        "export {0}/a/model --output {0}/a",
        "label export {0}/a/tasks --output {0}/a",
        "shadow report --output {0}/a",
        "compare 1 2 --output {0}/a",
        "replay 1 --work {0}/a --output {0}/a",
        "distill --output {0}/a",
        "data import table {0}/nosuch.csv {0}/a/data",
    ],
)
def test_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.delenv("MISTERE_STORE", raising=False)
    (tmp_path / "empty").mkdir()
    result = mistere_in_process(*command.format(tmp_path).split())
    assert result.returncode == ExitCode.USAGE, result.stderr
    assert content(tmp_path) == ["empty"]


def test_a_distillation_without_its_data_leaves_nothing(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    bundle = store.location(f"artifacts/ModelBundle/{make_champion(store, tmp_path / 'bundle', None)}")
    result = mistere_in_process(
        "distill", bundle, "--no-register", "--data", f"{tmp_path}/nosuch", "--output", f"{tmp_path}/a"
    )
    assert result.returncode == ExitCode.USAGE and "there is no data at" in result.stderr, result.stderr
    assert not (tmp_path / "a").exists()


def test_an_output_folder_that_was_there_stays(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    mistere_in_process(*f"run --profile tiny --data {tmp_path}/nosuch --output {tmp_path}/a".split())
    assert (tmp_path / "a").is_dir()


@pytest.mark.parametrize(("left", "kept"), [(".lock", False), ("x/.lock", False), ("x/result", True), ("b", True)])
def test_only_folders_without_results_are_deleted(tmp_path: Path, left: str, kept: bool) -> None:
    created = missing_folders(tmp_path / "a" / "b")
    assert created == [tmp_path / "a" / "b", tmp_path / "a"] and not missing_folders(tmp_path)
    (file := tmp_path / "a" / "b" / left).parent.mkdir(parents=True)
    file.write_text("")
    with pytest.raises(KeyboardInterrupt), removed_if_refused(created, {".lock"}):
        raise KeyboardInterrupt
    assert file.exists() is kept and (tmp_path / "a").exists() is kept
    with removed_if_refused(created, {".lock"}):
        created[0].mkdir(parents=True, exist_ok=True)
    assert created[0].is_dir()
