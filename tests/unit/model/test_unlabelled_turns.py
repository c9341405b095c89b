"""Turns without a label are context: they affect their neighbours' predictions, and no loss and no figure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mistere.common.errors import DataError
from mistere.common.progress import Progress
from mistere.config.mixture import MixtureConfig
from mistere.model.embeddings import UNLABELLED, EmbeddedDialogue, EmbeddedDialogues
from mistere.model.mixture.automatic_settings import TrainSize
from mistere.model.mixture.mixture import MixtureOfExperts
from mistere.model.mixture.prediction import make_batch, predict_split
from mistere.model.mixture.training import class_weights, train_mixture
from tests.unit.model.dialogue_sets import CLASSES, dialogues_of
from tests.unit.model.fixed_settings import FIXED

pytestmark = pytest.mark.usefixtures("one_thread")


def config_of(**changes: object) -> MixtureConfig:
    small = {"hidden": 6, "gru_layers": 1, "fusion_width": 12, "fusion_blocks": 1, "attention_width": 12}
    return MixtureConfig.model_validate({**FIXED, **small, "fusion_dropout": 0.0, **changes})


def partly_labelled(*splits: str, share: float = 0.5) -> EmbeddedDialogues:
    """The set of :func:`dialogues_of` without a share of the labels of some splits."""
    data, draw = dialogues_of(), np.random.default_rng(1)

    def without_labels(dialogue: EmbeddedDialogue) -> EmbeddedDialogue:
        return replace(dialogue, labels=np.where(draw.random(len(dialogue)) < share, UNLABELLED, dialogue.labels))

    def turns_of(split: str) -> list[EmbeddedDialogue]:
        return [without_labels(one) if split in splits else one for one in data.split(split)]  # type: ignore[arg-type]

    return data.with_splits({split: turns_of(split) for split in ("train", "dev", "test")})


@pytest.mark.parametrize("scale", ["mean", "dialogue"])
def test_loss_is_that_of_the_labelled_turns(scale: str) -> None:
    torch.manual_seed(0)
    data = partly_labelled("train")
    train = data.split("train")
    model = MixtureOfExperts(config_of(consistency_scale=scale), data.dimensions, CLASSES).eval()
    batch = make_batch([data.read(one) for one in train], data.dimensions, [one.labels for one in train])
    output = model(batch)
    loss = model.loss(batch, output)
    assert batch.labels is not None and batch.labelled is not None and 0 < batch.labelled.sum() < len(batch.labelled)

    other = torch.where(batch.labelled, batch.labels, 0)  # what stands there instead does not matter
    assert torch.equal(model.loss(replace(batch, labels=other), output), loss)
    rows = replace(output.only(batch.labelled))
    present = {name: marks[batch.labelled] for name, marks in batch.present.items()}
    alone = replace(batch, present=present, labels=batch.labels[batch.labelled], labelled=None)
    assert torch.equal(model.loss(alone, rows), loss)

    loss.backward()
    assert all(one.grad is None or one.grad.isfinite().all() for one in model.parameters())


def test_a_batch_without_a_label_has_no_loss() -> None:
    data = partly_labelled("train", share=1.1)
    train = data.split("train")
    model = MixtureOfExperts(config_of(), data.dimensions, CLASSES)
    batch = make_batch([data.read(one) for one in train], data.dimensions, [one.labels for one in train])
    loss = model.loss(batch, model(batch))
    loss.backward()
    assert loss == 0 and all(one.grad is None or (one.grad == 0).all() for one in model.parameters())


def test_figures_count_labelled_turns_and_neighbours_see_the_others() -> None:
    whole, data = dialogues_of(), partly_labelled("train", "dev")
    torch.manual_seed(0)
    model = MixtureOfExperts(config_of(), data.dimensions, CLASSES).eval()
    everything, some = predict_split(model, whole, "dev"), predict_split(model, data, "dev")
    kept = np.concatenate([one.labelled for one in data.split("dev")])
    assert 0 < kept.sum() < len(kept) == len(everything.labels)
    assert np.array_equal(some.labels, everything.labels[kept])
    assert np.array_equal(some.probabilities, everything.probabilities[kept])  # the same context
    assert some.dialogues == [name for name, labelled in zip(everything.dialogues, kept, strict=True) if labelled]
    labelled = sum(int(one.labelled.sum()) for one in data.split("train"))
    assert TrainSize.of(data).utterances == labelled < TrainSize.of(whole).utterances
    weights = class_weights(config_of(class_weights="balanced"), data)
    assert weights is not None and weights.isfinite().all()


@pytest.mark.parametrize("gate", [pytest.param("fitted", marks=pytest.mark.long), "learned"])
def test_training_ignores_what_stands_for_a_missing_label(gate: str) -> None:
    config = config_of(epochs=3, learning_rate=1e-2, gate=gate)
    data = partly_labelled("train", "dev")
    one, other = (train_mixture(config, data, progress=Progress("test")) for _ in range(2))
    assert one.history == other.history and one.temperature == other.temperature
    every = train_mixture(config, dialogues_of(), progress=Progress("test"))
    assert every.history != one.history
    assert all(np.isfinite(entry["loss"]) for entry in one.history)


@pytest.mark.parametrize("split", ["train", "dev"])
def test_a_split_without_any_label_is_rejected(split: str) -> None:
    with pytest.raises(DataError, match=f"no turn of the {split} split has a label"):
        train_mixture(config_of(), partly_labelled(split, share=1.1), progress=Progress("test"))


def test_a_null_label_is_read_as_context(tmp_path: Path) -> None:
    rows = {"split": ["train"] * 3, "dialogue_id": ["d"] * 3, "turn": [0, 1, 2], "label": ["b", None, "a"]}
    pq.write_table(pa.table(rows), tmp_path / "utterances.parquet")
    np.save(tmp_path / "text.npy", np.zeros((3, 2), np.float32))
    data = EmbeddedDialogues.read_files(tmp_path / "utterances.parquet", {"text": tmp_path / "text.npy"}, ["a", "b"])
    (dialogue,) = data.split("train")
    assert dialogue.labels.tolist() == [1, UNLABELLED, 0] and dialogue.labelled.tolist() == [True, False, True]
