"""The sample profile as `make run` runs it, and the same data with its labels shuffled."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from mistere.common.splits import SPLITS, Split
from mistere.data.dataset import Utterance, load_info, read_utterances, write_dataset
from tests.local.workshop import Run, committed_tree, mistere

pytestmark = [pytest.mark.long, pytest.mark.timeout(2400)]


def run_sample(output: Path, *arguments: str) -> Run:
    command = ("run", "--profile", "sample", "--output", str(output), "--set", "gate.allow_uncommitted=true")
    done = mistere(*command, *arguments, timeout=1500)
    return Run(done.returncode, done.stdout + done.stderr, output)


def test_the_sample_is_released_and_the_mixture_wins(tmp_path: Path) -> None:
    done = run_sample(tmp_path)
    assert done.code == 0, done.text
    metrics = (done.folder / "reports" / "metrics.json").read_text()
    assert '"test.weighted_f1"' in metrics
    again = run_sample(tmp_path)
    assert again.code == 0 and not {"finetune_encoder-speech", "finetune_encoder-text", "train_moe"} & again.ran


def shuffled(folder: Path) -> Iterator[tuple[Split, Utterance]]:
    """The dataset with every label drawn at random: voice and words carry no information about it."""
    draw = random.Random(1)
    for split in SPLITS:
        utterances = list(read_utterances(sorted(folder.glob(f"{split}-*.parquet"))))
        labels = [utterance.label for utterance in utterances]
        draw.shuffle(labels)
        for utterance, label in zip(utterances, labels, strict=True):
            yield split, dataclasses.replace(utterance, label=label)


def test_shuffled_labels_do_not_pass_the_gate(tmp_path: Path, pulled_sample: Path) -> None:
    write_dataset(tmp_path / "shuffled", load_info(pulled_sample / "dataset.yaml"), shuffled(pulled_sample))
    done = run_sample(tmp_path / "output", "--data", str(tmp_path / "shuffled"))
    assert done.code == 3, done.text
    assert "REJECTED" in done.text and "must reach 0.400" in done.text
    assert (done.folder / "reports" / "run_report.html").is_file()


def test_the_sample_s_model_is_made_again_from_its_lineage(tmp_path: Path) -> None:
    tree = committed_tree(tmp_path / "tree")
    output = str(tmp_path / "output")
    done = mistere("run", "--profile", "sample", "--output", output, root=tree, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    replay = ("replay", "mistere@champion", "--output", output, "--work", str(tmp_path / "replay"))
    again = mistere(*replay, root=tree, timeout=1500)
    assert again.returncode == 0 and "SAME: all" in again.stdout, again.stdout + again.stderr
