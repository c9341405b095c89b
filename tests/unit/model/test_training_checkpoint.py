"""The checkpoint file of a training: what it holds, and what happens to a damaged one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mistere.common.errors import UsageError
from mistere.config.mixture import MixtureConfig
from mistere.model.mixture.training import MixtureTraining
from mistere.model.training_checkpoint import CHECKPOINT, TrainingState, read_checkpoint, write_checkpoint
from tests.unit.model.dialogue_sets import dialogues_of

STATE = TrainingState(
    {"layer": torch.arange(6.0).view(2, 3)}, optimizer={0: {"step": torch.tensor(3.0)}}, facts={"epoch": 1}
)
SHAPES = {"layer": torch.Size([2, 3])}
pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_checkpoint_of_the_best_epoch_and_of_a_later_one_restore_the_best_weights(tmp_path: Path) -> None:
    data = dialogues_of(seed=4)
    config = MixtureConfig(hidden=4, gru_layers=1, fusion="feed_forward", fusion_width=8, epochs=3, average_epochs=2.0)
    training = MixtureTraining(config, data)
    sizes = []
    for best_score in (-1.0, 2.0):  # the first epoch is the best, the second cannot be
        training.best_score = best_score
        training.train_epoch()
        sizes.append(training.save(tmp_path))
        resumed = MixtureTraining(config, data)
        resumed.restore(tmp_path)
        assert (resumed.epoch, resumed.best_epoch) == (training.epoch, 1)
        assert resumed.best.keys() == training.best.keys()
        assert all(torch.equal(tensor, resumed.best[name]) for name, tensor in training.best.items())
    assert sizes[0] < sizes[1] == (tmp_path / CHECKPOINT).stat().st_size  # the best weights are not written twice


def test_a_damaged_checkpoint_is_not_used(tmp_path: Path) -> None:
    write_checkpoint(STATE, tmp_path)
    file = tmp_path / CHECKPOINT
    content = file.read_bytes()
    state = read_checkpoint(tmp_path, SHAPES)
    assert state is not None and torch.equal(state.model["layer"], STATE.model["layer"])
    assert state.optimizer[0]["step"] == 3 and state.facts == STATE.facts
    for damaged in (content[:-1], b""):
        file.write_bytes(damaged)
        assert read_checkpoint(tmp_path, SHAPES) is None
    for index, byte in enumerate(content):
        file.write_bytes(content[:index] + bytes([byte ^ 1]) + content[index + 1 :])
        read = read_checkpoint(tmp_path, SHAPES)
        if read is not None:  # the damage hit the name of the digest, which earlier releases did not write
            assert torch.equal(read.model["layer"], STATE.model["layer"]) and read.facts == STATE.facts
            assert read.optimizer[0]["step"] == 3 and b"digest" in content[index - 5 : index + 6]
    file.unlink()
    assert read_checkpoint(tmp_path, SHAPES) is None


def test_a_checkpoint_without_a_digest_is_read_and_one_of_another_shape_is_refused(tmp_path: Path) -> None:
    write_checkpoint(STATE, tmp_path)
    with pytest.raises(UsageError, match="of another shape; delete it"):
        read_checkpoint(tmp_path, {"layer": torch.Size([3, 3])})
    with safe_open(tmp_path / CHECKPOINT, framework="pt") as tensors:
        loaded = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
        facts = tensors.metadata()["facts"]
    save_file(loaded, tmp_path / CHECKPOINT, metadata={"facts": facts})  # as releases wrote it before the digest
    assert read_checkpoint(tmp_path, SHAPES) is not None
