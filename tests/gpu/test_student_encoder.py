"""A student's encoder that is trained on a GPU learns, and is an ordinary encoder afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.local.test_student_encoder import Workshop, workshop  # noqa: F401  (a fixture)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("modality", ["text", "speech"])
def test_a_student_learns_on_a_gpu(modality: str, workshop: Workshop, tmp_path: Path) -> None:  # noqa: F811
    made, _ = workshop.distil(modality, tmp_path, "distillation.device=cuda")
    losses = [epoch["dev_loss"] for epoch in made.manifest.history]
    assert len(losses) == 3 and min(losses[1:]) < losses[0]
    assert all(tensor.isfinite().all() for tensor in load_file(made.file("tuned.safetensors")).values())
