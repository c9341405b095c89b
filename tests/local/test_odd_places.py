"""The whole pipeline in folders whose names mean something to a shell, a URL or a configuration file, and after a move."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from mistere.common.paths import path_of, sqlite_url
from mistere.config.registry import RegistryConfig
from mistere.registry.mlflow.connection import connected
from tests.local.workshop import committed_tree, make_dataset, mistere, run
from tests.unit.artifacts.test_odd_paths import ODD

pytestmark = pytest.mark.long


def test_a_run_works_in_odd_folders_and_its_output_after_a_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """▶ The run failed, or wrote beside the folder; in a moved output the next run wrote into the former folder again."""
    folder = tmp_path / ODD
    clone = committed_tree(tmp_path / ODD.replace(":", "") / "mistere")  # PYTHONPATH cannot hold a colon
    data, output = make_dataset(folder / "data\n1"), folder / "out"
    monkeypatch.setenv("MISTERE_CACHE", str(folder / "cache"))
    monkeypatch.setenv("HOME", "/proc/nowhere")  # does not exist, and cannot be made, by root neither
    first = run(output, data, "registry.log_report=true", root=clone)
    assert first.code == 0, first.text
    printed = {line[:8].strip(): line[9:] for line in first.text.splitlines()}
    assert shlex.split(printed["serve it"])[-3:] == ["serve", "--output", str(output)]
    assert Path(shlex.split(printed["ask it"])[-1]).is_file()
    registry = sqlite_url(output / "mlflow.db")
    assert registry in shlex.split(printed["registry"])
    assert {path.name for path in tmp_path.iterdir()} == {ODD, ODD.replace(":", "")}
    assert {path.name for path in folder.iterdir()} == {"data\n1", "out", "cache"}
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=clone, capture_output=True, check=True)
    assert changed.stdout == b""

    moved = output.rename(tmp_path / "moved #2")
    again = run(moved, data, "registry.log_report=true", root=clone)
    assert again.code == 0 and "train_moe" not in again.ran, again.text
    assert not output.exists()
    listed = mistere("models", "--json", "--output", str(moved), root=clone)
    (version,) = json.loads(listed.stdout)
    assert Path(version["bundle_location"]).is_dir() and Path(version["bundle_location"]).is_relative_to(moved)
    with connected(sqlite_url(moved / "mlflow.db")) as client:
        experiment = client.get_experiment_by_name(RegistryConfig().experiment)
        logged = client.search_runs([experiment.experiment_id])
        assert len(logged) >= 2
        for entry in logged:
            assert path_of(entry.info.artifact_uri).is_relative_to(moved)
            assert "run_report.html" in [file.path for file in client.list_artifacts(entry.info.run_id)]
