"""A small dataset and calls of the command ``mistere``, for tests of the whole pipeline."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from mistere.common.processes.run_locks import stage_environment
from mistere.common.splits import Split
from mistere.data.dataset import DatasetInfo, Utterance
from mistere.data.dataset_writer import write_dataset

ROOT = Path(__file__).resolve().parents[2]
LABELS = ["calm", "glad", "cross"]
_WORDS = {"calm": "all is well today", "glad": "this is lovely news", "cross": "stop it right now"}
_PITCH = {"calm": 150.0, "glad": 300.0, "cross": 600.0}
_SHIFT = {"train": 0.0, "dev": 0.3, "test": 0.6}


def tone(hertz: float, seconds: float = 0.8, rate: int = 16000) -> bytes:
    """A WAV file of a sine tone."""
    time = np.arange(int(seconds * rate)) / rate
    buffer = io.BytesIO()
    soundfile.write(buffer, (0.2 * np.sin(2 * np.pi * hertz * time)).astype(np.float32), rate, format="WAV")
    return buffer.getvalue()


def rows(*, audio: bool = True) -> Iterator[tuple[Split, Utterance]]:
    """The rows of 18 dialogues of four turns; no speaker, sentence or recording occurs in two splits."""
    splits: tuple[tuple[Split, int], ...] = (("train", 10), ("dev", 4), ("test", 4))
    for split, dialogues in splits:
        for dialogue in range(dialogues):
            for turn in range(4):
                label = LABELS[(dialogue + turn) % 3]
                yield (
                    split,
                    Utterance(
                        dialogue_id=f"{split}-{dialogue}",
                        turn=turn,
                        label=label,
                        text=f"{_WORDS[label]}, {split}{dialogue}x{turn}",
                        audio=tone(_PITCH[label] + 5 * dialogue + turn + _SHIFT[split]) if audio else None,
                        speaker=f"{split}-{turn % 2}",
                    ),
                )


def info(**changes: Any) -> DatasetInfo:
    """The dataset's ``dataset.yaml``."""
    values: dict[str, Any] = {
        "name": "tones",
        "description": "Tones and a few words, for tests.",
        "labels": LABELS,
        "language": "en",
        "licence": "CC0-1.0",
        "splits": "By hand.",
        "speaker_disjoint": True,
        "synthetic": True,
    }
    return DatasetInfo(**{**values, **changes})


def make_dataset(directory: Path, utterances: Iterator[tuple[Split, Utterance]] | None = None, **changes: Any) -> Path:
    """Write the dataset."""
    write_dataset(directory, info(**changes), utterances if utterances is not None else rows())
    return directory


def _overlay(directory: Path) -> None:
    """Copy the uncommitted changes of this tree into a clone."""
    changed = subprocess.run(
        ["git", "ls-files", "--modified", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, changed.split("\0")):
        target = directory / name
        if (ROOT / name).is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)
        else:
            target.unlink(missing_ok=True)


def committed_tree(directory: Path) -> Path:
    """A clone of this tree with its uncommitted changes committed, so that models made from it are reproducible."""
    cloned = subprocess.run(["git", "clone", "--quiet", str(ROOT), str(directory)], capture_output=True, check=False)
    if cloned.returncode:  # this tree is not a Git repository
        ignored = shutil.ignore_patterns(".git", ".venv", "output", "data", "*.egg-info", "__pycache__", ".*_cache")
        shutil.copytree(ROOT, directory, ignore=ignored, dirs_exist_ok=True)
        subprocess.run(["git", "init", "--quiet", str(directory)], check=True)
    else:
        _overlay(directory)
    commit = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "--quiet", "--allow-empty"]
    subprocess.run(["git", "add", "--all"], cwd=directory, check=True)
    subprocess.run([*commit, "--message", "Commit the working tree"], cwd=directory, check=True)
    return directory


@dataclass(frozen=True)
class Run:
    """The result of a call of ``mistere run``."""

    code: int
    text: str
    output: Path

    @property
    def folder(self) -> Path:
        """The newest run's records in the store."""
        return max((self.output / "store" / "runs").iterdir(), key=lambda path: path.stat().st_mtime_ns)

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        """The stage records by task."""
        records = (json.loads(path.read_text()) for path in (self.folder / "stages").glob("*.json"))
        return {record["task"]: record for record in records}

    @property
    def ran(self) -> set[str]:
        """The tasks that were computed, not reused."""
        return {task for task, record in self.stages.items() if record["status"] == "done"}


def mistere(*arguments: str, root: Path = ROOT, timeout: float = 1700) -> subprocess.CompletedProcess[str]:
    """Run the command ``mistere`` of a source tree in a process."""
    return subprocess.run(
        [sys.executable, "-m", "mistere", *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def start_run(output: Path, data: Path, stdout: int, **options: Any) -> subprocess.Popen[str]:
    """Start the pipeline with the profile ``tiny`` in the background; ``options`` are of ``subprocess.Popen``."""
    command = ["run", "--profile", "tiny", "--data", str(data), "--output", str(output)]
    return subprocess.Popen(
        [sys.executable, "-m", "mistere", *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=stdout,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def has_started(task: str, output: Path, earlier: set[Path]) -> bool:
    """Whether a task of a run whose folder is not one of the earlier ones has started."""
    for folder in set((output / "runs").glob("*")) - earlier:
        events = folder / "events.jsonl"
        for line in events.read_text().splitlines() if events.is_file() else []:
            event = json.loads(line)
            if (event["task"], event["event"]) == (task, "started"):
                return True
    return False


def mistere_in_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command ``mistere`` in this process, for commands that do not start the code of another tree.

    This saves three seconds of imports where MLflow is involved; output and exit code are the same.
    """
    from pipelines.cli.app import main

    output, errors = io.StringIO(), io.StringIO()
    command_line = sys.argv
    sys.argv = ["mistere", *arguments]
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            main()
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    finally:
        sys.argv = command_line
    return subprocess.CompletedProcess(["mistere", *arguments], code, output.getvalue(), errors.getvalue())


def run(output: Path, data: Path, *settings: str, root: Path = ROOT, profile: str = "tiny") -> Run:
    """Run the pipeline."""
    options = [part for setting in settings for part in ("--set", setting)]
    result = mistere("run", "--profile", profile, "--data", str(data), "--output", str(output), *options, root=root)
    return Run(result.returncode, result.stdout + result.stderr, output)


def run_pipeline(folder: Path, pipeline: str, arguments: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Run a pipeline as ``mistere run`` runs the retraining: kfp's local runner in a process, with its files in ``folder``."""
    folder.mkdir()
    file = folder / "arguments.json"
    file.write_text(json.dumps(arguments))
    return subprocess.run(
        [sys.executable, "-m", "pipelines.local_runner", str(file), str(folder / "kfp"), pipeline],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **stage_environment(folder, folder)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
