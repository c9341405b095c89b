"""A run that leaves out a modality, because it hurts on dev: from the training to the endpoint's answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import mistere as api
from mistere.common.splits import Split
from mistere.data.dataset import Utterance
from tests.local.workshop import LABELS, make_dataset, run, tone

WORDS = {
    "calm": "I am calm and everything is quiet",
    "glad": "what a lovely happy day",
    "cross": "I am furious, stop it",
}


def misleading_tones() -> Iterator[tuple[Split, Utterance]]:
    """Words tell the label everywhere; the tone tells it in train, and another one in dev and test."""
    splits: tuple[tuple[Split, int], ...] = (("train", 24), ("dev", 12), ("test", 12))
    for split, dialogues in splits:
        for dialogue in range(dialogues):
            for turn in range(4):
                index = (dialogue + turn) % 3
                heard = index if split == "train" else (index + 1) % 3
                number = len(split) + 0.1 * dialogue + 0.01 * turn
                yield (
                    split,
                    Utterance(
                        dialogue_id=f"{split}-{dialogue}",
                        turn=turn,
                        label=LABELS[index],
                        text=f"{WORDS[LABELS[index]]}, {split} {dialogue} {turn}",
                        audio=tone(150.0 * 2**heard + number, seconds=3.0),
                        speaker=f"{split}-{turn % 2}",
                    ),
                )


@pytest.mark.long
def test_a_run_leaves_out_the_modality_that_hurts_and_says_so(tmp_path: Path) -> None:
    data, output = make_dataset(tmp_path / "tones", misleading_tones()), tmp_path / "output"
    # A gate that is fitted on dev gives the misleading expert no weight, and then nothing has to be left out.
    settings = ("mixture.modalities=auto", "mixture.gate=learned", "text.epochs=2", "speech.epochs=2")
    done = run(output, data, *settings, profile="sample")
    assert done.code == 0, done.text
    sentence = "speech hurts and is left out"
    assert sentence in done.text
    assert sentence in (done.folder / "reports" / "run_report.html").read_text()
    bundle = output / "store" / "artifacts" / "ModelBundle" / done.stages["register_model"]["outputs"]["bundle"]
    assert [file.name for file in (bundle / "encoders").iterdir()] == ["text.safetensors"]
    turns = [{"text": WORDS[label], "audio": tone(600.0)} for label in LABELS]
    answer = api.load(str(bundle)).predict(turns)
    assert answer.predicted == LABELS and answer.modalities == ["text"] * len(LABELS)
