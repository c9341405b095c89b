"""Steps of the guides: an encoder of the user, sharded extraction, and MELD imported from its tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from mistere.model.encoders.families import families
from tests.local.workshop import ROOT, make_dataset, mistere, rows, run

pytestmark = pytest.mark.long
MELD = ROOT.parent / "shared" / "data" / "meld"


def test_a_setting_selects_an_encoder_of_the_user(tmp_path: Path) -> None:
    families()["bidirectional_text"].write_random(tmp_path / "my-bert", seed=3)
    data = make_dataset(tmp_path / "tones", rows(audio=False))
    first = run(tmp_path / "output", data, f"text.source=path:{tmp_path / 'my-bert'}")
    assert first.code == 0, first.text
    # Weights that changed in place are another encoder, although the path is the same.
    families()["bidirectional_text"].write_random(tmp_path / "my-bert", seed=4)
    second = run(tmp_path / "output", data, f"text.source=path:{tmp_path / 'my-bert'}")
    assert "finetune_encoder-text" in second.ran


@pytest.mark.long
def test_sharded_extraction_gives_the_same_embeddings(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "tones")
    unsharded = run(tmp_path / "output", data)
    sharded = run(tmp_path / "output", data, "speech.extraction.shards=2", "speech.extraction.cache=off")
    assert {"embed_shard-speech-1of2", "embed_shard-speech-2of2"} <= sharded.ran
    name = "extract_embeddings-speech"
    assert sharded.stages[name]["outputs"] == unsharded.stages[name]["outputs"] and "train_moe" not in sharded.ran


@pytest.mark.skipif(not MELD.is_dir(), reason="MELD's tables are not beside the project (../shared/data/meld)")
def test_the_tables_of_meld_become_a_released_model(tmp_path: Path) -> None:
    imported = mistere("data", "import", "meld", str(MELD), str(tmp_path / "meld-text"))
    assert imported.returncode == 0 and "train 9989, dev 1109, test 2610" in imported.stdout
    released = run(tmp_path / "output", tmp_path / "meld-text", "data.max_dialogues=150")
    assert released.code == 0, released.text
    assert released.stages["extract_embeddings-speech"]["peak_memory_mb"] < 200
