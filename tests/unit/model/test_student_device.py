"""A student's encoder is trained where ``distillation.device`` says: here on PyTorch's device without memory, in the place of a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from components.distill_encoder import training
from mistere.config.distillation import DistillationConfig
from mistere.config.encoder import EncoderConfig
from mistere.data.utterances import FeatureSpool
from mistere.model.encoders.families.convolutional import Convolutional
from mistere.model.encoders.utterance_encoder import UtteranceEncoder

SETTINGS = EncoderConfig(source="measured:convolutional", projection=8, pooling="attentive")
CONFIG = DistillationConfig(batch_size=2, teacher_share=1)
NO_NUMBER = r"Tensor\.item\(\) cannot be called on meta tensors"
"""How a pass ends: the loss is the first number that is read of it. Before, an operation on tensors of two devices would raise."""


class Watched(Convolutional):
    """Records on which devices the batches are."""

    devices: set[str]

    def hidden_states(self, backbone: nn.Module, batch: dict[str, Tensor]) -> tuple[list[Tensor], Tensor]:
        self.devices = {tensor.device.type for tensor in batch.values()}
        return super().hidden_states(backbone, batch)


def test_batches_targets_and_optimiser_are_on_the_device(tmp_path: Path) -> None:
    Convolutional.write_random(tmp_path / "base", 0)
    family, spool = Watched(tmp_path / "base", SETTINGS), FeatureSpool(tmp_path / "spool")
    for index in range(4):
        wave = np.sin(np.arange(8000 + 400 * index) / 9).astype(np.float32)
        spool.append(family.prepare(wave), index % 2)
    spool.close()
    examples = training.Examples(FeatureSpool.open(tmp_path / "spool"), torch.randn(4, 8))
    device = torch.device("meta")
    encoder = UtteranceEncoder(family, SETTINGS, 2).to(device)
    targets = training._Targets([torch.randn(2, 8), torch.randn(2)], examples, CONFIG, device)
    student: Any = training._Student(CONFIG, encoder, targets, examples, examples, device, keeps_layers=False)
    with pytest.raises(RuntimeError, match=NO_NUMBER):
        student.train_epoch()
    assert family.devices == {"meta"}
    moments = [one["exp_avg"] for one in student._optimizer.state_dict()["state"].values()]
    assert moments and all(moment.is_meta for moment in moments)
    family.devices = set()
    with pytest.raises(RuntimeError, match=NO_NUMBER):
        training._evaluate(encoder, targets, examples, device)
    assert family.devices == {"meta"}
