"""The tracked dataset: a fresh clone pulls it with no credentials, and it is what it says."""

from __future__ import annotations

from pathlib import Path

from mistere.common.splits import SPLITS, Split
from mistere.data.dataset import load_info, read_utterances
from tests.local.workshop import ROOT


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
    assert counts["test"] >= 600
    assert sum(len(names) for names in dialogues.values()) == 150
    assert not speakers["train"] & speakers["test"] and not speakers["train"] & speakers["dev"]
    assert not dialogues["train"] & dialogues["test"]


def test_the_remote_in_the_repository_is_small() -> None:
    files = (path for path in (ROOT / ".dvc" / "sample-remote").rglob("*") if path.is_file())
    assert sum(path.stat().st_size for path in files) <= 12_000_000
