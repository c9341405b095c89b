"""The mixture compared with a plain version of the published design: equal without padding, different with it."""

from __future__ import annotations

import numpy as np
import torch

from mistere.config.mixture import MixtureConfig
from mistere.model.mixture.mixture import MixtureOfExperts
from mistere.model.mixture.prediction import make_batch
from tests.bench.reference.published_design import PublishedDesign, padded

CONFIG = MixtureConfig(hidden=6, gru_layers=3, fusion_width=12, fusion_blocks=2, attention_width=6)


def losses(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor, MixtureOfExperts, PublishedDesign]:
    torch.manual_seed(0)
    draw = np.random.default_rng(0)
    widths = {"speech": 7, "text": 5}
    ours = MixtureOfExperts(CONFIG, widths, 4).eval()
    plain = PublishedDesign(CONFIG, list(widths.values()), 4).eval()
    plain.copy_from(ours)
    dialogues = [
        {name: draw.normal(size=(n, width)).astype(np.float32) for name, width in widths.items()} for n in lengths
    ]
    labels = [draw.integers(0, 4, n) for n in lengths]
    batch = make_batch(dialogues, widths, labels)
    one = ours.loss(batch, ours(batch))
    other = plain.loss(*(padded([dialogue[name] for dialogue in dialogues]) for name in widths), padded(labels))
    return one, other, ours, plain


def test_loss_and_gradients_match_the_published_design_on_equal_lengths() -> None:
    one, other, ours, plain = losses([9, 9, 9])
    torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
    one.backward()
    other.backward()
    gru = ours.unimodal["text"].context.gru.gru  # type: ignore[union-attr]
    for actual, expected in (
        (gru.weight_hh_l0, plain.context[1].gru.weight_hh_l0),  # type: ignore[union-attr]
        (gru.weight_ih_l2_reverse, plain.context[1].gru.weight_ih_l2_reverse),  # type: ignore[union-attr]
        (ours.gate.layers[0].weight, plain.gate[0].weight),  # type: ignore[union-attr, index]
        (ours.cross_modal.projections[0].weight, plain.projections[0].weight),  # type: ignore[union-attr, index]
    ):
        torch.testing.assert_close(actual.grad, expected.grad, atol=1e-5, rtol=1e-3)


def test_padding_affects_the_published_loss_only() -> None:
    one, other, _, _ = losses([2, 9, 5])
    assert float((one - other).detach().abs()) > 1e-2
