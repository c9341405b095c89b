"""Training steps and extraction batches of large encoders on a GPU."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize(
    ("profile", "modality"), [("gpu", "speech"), ("gpu", "text"), ("paper", "speech"), ("paper", "text")]
)
def test_embedding_with_a_large_encoder_completes(
    profile: str, modality: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.bench.encoder_throughput import measure, peak_of

    device = torch.device("cuda")
    if profile == "paper" and torch.cuda.get_device_properties(device).total_memory < 40e9:
        pytest.skip("needs 40 GB")
    measure(profile, modality, device, peak_of(device))
    assert "% of the matrix peak" in capsys.readouterr().out
