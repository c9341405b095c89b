"""What the guides say, done: an encoder of your own, shards, and MELD from its tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from mistere.model.encoders.families import families
from tests.local.workshop import ROOT, make_dataset, mistere, rows, run

pytestmark = pytest.mark.long
MELD = ROOT.parent / "shared" / "data" / "meld"


def test_an_encoder_of_ones_own_is_one_setting(tmp_path: Path) -> None:
    families()["bidirectional_text"].write_random(tmp_path / "my-bert", seed=3)
    data = make_dataset(tmp_path / "tones", rows(audio=False))
    done = run(tmp_path / "output", data, f"text.source=path:{tmp_path / 'my-bert'}")
    assert done.code == 0, done.text
    # Weights changed in place are another encoder, though their name is the same.
    families()["bidirectional_text"].write_random(tmp_path / "my-bert", seed=4)
    again = run(tmp_path / "output", data, f"text.source=path:{tmp_path / 'my-bert'}")
    assert "finetune_encoder-text" in again.ran


@pytest.mark.long
def test_shards_share_the_work_and_change_nothing(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "tones")
    one = run(tmp_path / "output", data)
    several = run(tmp_path / "output", data, "speech.extraction.shards=2", "speech.extraction.cache=off")
    assert {"embed_shard-speech-1of2", "embed_shard-speech-2of2"} <= several.ran
    name = "extract_embeddings-speech"
    assert several.stages[name]["outputs"] == one.stages[name]["outputs"] and "train_moe" not in several.ran


@pytest.mark.skipif(not MELD.is_dir(), reason="MELD's tables are not beside the project (../shared/data/meld)")
def test_meld_s_tables_become_a_released_model(tmp_path: Path) -> None:
    imported = mistere("data", "import", "meld", str(MELD), str(tmp_path / "meld-text"))
    assert imported.returncode == 0 and "train 9989, dev 1109, test 2610" in imported.stdout
    done = run(tmp_path / "output", tmp_path / "meld-text", "data.max_dialogues=150")
    assert done.code == 0, done.text
    assert done.stages["extract_embeddings-speech"]["peak_memory_mb"] < 200
