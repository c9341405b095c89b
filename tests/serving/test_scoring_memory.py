"""A scoring holds a few windows of turns, however long the archive is."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from mistere.artifacts.object_store import LocalStore
from mistere.data.dataset import Utterance
from mistere.data.kinds.audio import Audio
from mistere.model.inference import load_bundle
from mistere.scoring.archive import open_archive
from mistere.scoring.call_columns import ArchiveColumns
from mistere.scoring.scorer import Scorer
from tests.serving.test_scoring import archive_rows, write_archive

WINDOW = 8


def held() -> int:
    """Recordings in memory."""
    gc.collect()
    return sum(1 for one in gc.get_objects() if type(one) is Utterance and one.audio)


def test_recordings_are_let_go_window_by_window(bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Audio, "rows_per_window", WINDOW)
    rows = archive_rows(30, audio=True)
    archive = open_archive(str(write_archive(tmp_path / "data", rows, shards=2)))
    scorer = Scorer(load_bundle(bundle), LocalStore(tmp_path / "store"), "off")
    streams = (archive.turns(shard, ArchiveColumns(), scorer.modalities) for shard in archive.shards)
    before = held()
    counts = [held() for number, _ in enumerate(scorer.score(streams)) if number % 10 == 9]
    # Three windows of the embedder, one that is read, and the batch of rows that is being read.
    assert len(rows) > 150 and max(counts) - before <= 5 * WINDOW, counts
