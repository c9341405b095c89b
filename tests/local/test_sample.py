"""The sample profile as in `make run`, and the same data with shuffled labels."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from mistere.common.splits import SPLITS, Split
from mistere.data.dataset import Utterance, load_info, read_utterances
from mistere.data.dataset_writer import write_dataset
from tests.local.workshop import Run, committed_tree, mistere

pytestmark = [pytest.mark.long, pytest.mark.timeout(2400)]


def run_sample(output: Path, *arguments: str) -> Run:
    command = ("run", "--profile", "sample", "--output", str(output), "--set", "gate.allow_uncommitted=true")
    result = mistere(*command, *arguments, timeout=1500)
    return Run(result.returncode, result.stdout + result.stderr, output)


def test_the_sample_is_released_and_the_mixture_wins(tmp_path: Path) -> None:
    released = run_sample(tmp_path)
    assert released.code == 0, released.text
    metrics = (released.folder / "reports" / "metrics.json").read_text()
    assert '"test.weighted_f1"' in metrics
    rerun = run_sample(tmp_path)
    assert rerun.code == 0 and not {"finetune_encoder-speech", "finetune_encoder-text", "train_moe"} & rerun.ran


def shuffled(folder: Path) -> Iterator[tuple[Split, Utterance]]:
    """The dataset with shuffled labels, about which voice and words carry no information."""
    draw = random.Random(1)
    for split in SPLITS:
        utterances = list(read_utterances(sorted(folder.glob(f"{split}-*.parquet"))))
        labels = [utterance.label for utterance in utterances]
        draw.shuffle(labels)
        for utterance, label in zip(utterances, labels, strict=True):
            yield split, dataclasses.replace(utterance, label=label)


def test_shuffled_labels_do_not_pass_the_gate(tmp_path: Path, pulled_sample: Path) -> None:
    write_dataset(tmp_path / "shuffled", load_info(pulled_sample / "dataset.yaml"), shuffled(pulled_sample))
    rejected = run_sample(tmp_path / "output", "--data", str(tmp_path / "shuffled"))
    assert rejected.code == 3, rejected.text
    assert "REJECTED" in rejected.text and "must reach 0.400" in rejected.text
    assert (rejected.folder / "reports" / "run_report.html").is_file()


def test_replay_reproduces_the_model_of_the_sample(tmp_path: Path) -> None:
    tree = committed_tree(tmp_path / "tree")
    output = str(tmp_path / "output")
    released = mistere("run", "--profile", "sample", "--output", output, root=tree, timeout=1500)
    assert released.returncode == 0, released.stdout + released.stderr
    command = ("replay", "mistere@champion", "--output", output, "--work", str(tmp_path / "replay"))
    replayed = mistere(*command, root=tree, timeout=1500)
    assert replayed.returncode == 0 and "SAME: all" in replayed.stdout, replayed.stdout + replayed.stderr
