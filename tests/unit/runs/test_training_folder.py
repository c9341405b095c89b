"""Each training has its own folder, and none overwrites another training or other files."""

from __future__ import annotations

from pathlib import Path

import pytest

from mistere.common.errors import MistereError, UsageError
from pipelines.cli.experiments.training_folder import RECORD, TRAININGS, TrainingFolder
from tests.unit.artifacts.embeddings_folder import write_embeddings

MADE_OF = {"embeddings": "digest", "settings": {"hidden": 6}}
SCOPE = {"seeds": 1, "ablations": []}


def folder(output: Path | None = None, settings: int = 6, seeds: int = 1) -> TrainingFolder:
    return TrainingFolder(output, {**MADE_OF, "settings": {"hidden": settings}}, {**SCOPE, "seeds": seeds})


def finish(training: TrainingFolder) -> None:
    training.begin()
    training.record()
    (training.path / "metrics.json").write_text("{}")
    training.end()


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_training_without_output_gets_a_new_folder_or_resumes_its_own() -> None:
    first = folder()
    assert first.path.parent == TRAININGS and not first.path.exists(), "nothing is written before the training begins"
    first.begin()
    assert folder().path != first.path, "the training goes on in another process"
    assert first._lock is not None
    first._lock.close()  # as when the process is killed
    assert folder().path == first.path and folder(settings=7).path != first.path
    finish(folder())
    second = folder()
    assert second.path != first.path and (first.path / "metrics.json").is_file()


def test_output_is_refused_if_it_holds_anything_else(tmp_path: Path) -> None:
    output = tmp_path / "mine"
    finish(folder(output))
    assert {entry.name for entry in output.iterdir()} == {RECORD, "metrics.json"}
    finish(folder(output))  # the same training again
    for other in ({"settings": 7}, {"seeds": 2}):
        with pytest.raises(UsageError, match="it contains another training; name another folder, or omit --output"):
            folder(output, **other)
    (output / RECORD).unlink()  # a training of an earlier version
    with pytest.raises(UsageError, match="it contains another training"):
        folder(output)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").touch()
    with pytest.raises(UsageError, match=r"it contains other files \(cat\.jpg\)"):
        folder(tmp_path / "photos")
    with pytest.raises(UsageError, match="it is a file"):
        folder(tmp_path / "photos" / "cat.jpg")
    running = folder(tmp_path / "running")
    running.begin()
    with pytest.raises(UsageError, match="another process trains in it"):
        folder(tmp_path / "running").begin()


@pytest.mark.long
def test_an_unreachable_mlflow_server_ends_the_command_before_the_training(tmp_path: Path) -> None:
    from pipelines.cli.commands.train import train

    source = write_embeddings(tmp_path / "embeddings")
    with pytest.raises(MistereError, match=r"the MLflow server at http://127\.0\.0\.1:9 cannot be reached"):
        train(source, "tiny", [], 1, [], tmp_path / "out", "http://127.0.0.1:9")
    assert not (tmp_path / "out").exists()
