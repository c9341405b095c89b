"""The tracked sample: a fresh clone pulls it without credentials, and its contents match its description."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from mistere.common.splits import SPLITS, Split
from mistere.corpora.sample import make_sample
from mistere.data.dataset import load_info, read_utterances
from tests.local.workshop import ROOT
from tests.unit.data.corpus_files import shard_digests


def test_a_fresh_clone_pulls_the_sample(pulled_sample: Path) -> None:
    info = load_info(pulled_sample / "dataset.yaml")
    assert info.synthetic and "synthetic" in info.description.lower()
    counts: dict[Split, int] = {}
    speakers: dict[Split, set[str | None]] = {}
    dialogues: dict[Split, set[str]] = {}
    for split in SPLITS:
        utterances = list(read_utterances(sorted(pulled_sample.glob(f"{split}-*.parquet"))))
        counts[split] = len(utterances)
        speakers[split] = {utterance.speaker for utterance in utterances}
        dialogues[split] = {utterance.dialogue_id for utterance in utterances}
        assert {utterance.label for utterance in utterances} == set(info.labels)
    assert counts["test"] >= 1600
    assert sum(len(names) for names in dialogues.values()) == 260
    assert not speakers["train"] & speakers["test"] and not speakers["train"] & speakers["dev"]
    assert not dialogues["train"] & dialogues["test"]


def test_the_remote_in_the_repository_is_small() -> None:
    files = (path for path in (ROOT / ".dvc" / "sample-remote").rglob("*") if path.is_file())
    assert sum(path.stat().st_size for path in files) <= 12_000_000


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.skipif(
    importlib.util.find_spec("espeakng_loader") is None,
    reason="the speech synthesizer is not installed (pip install -e .[sample])",
)
def test_the_source_command_reproduces_the_sample(tmp_path: Path, pulled_sample: Path) -> None:
    """The command in dataset.yaml reproduces every byte that the remote holds."""
    command = re.fullmatch(r"mistere data sample --seed (\d+)", load_info(pulled_sample / "dataset.yaml").source)
    assert command is not None
    make_sample(tmp_path / "sample", int(command[1]))
    assert shard_digests(tmp_path / "sample") == shard_digests(pulled_sample)
