"""Operations of the mixture's training that are written for speed compute what torch's own operations compute."""

from __future__ import annotations

import pytest
import torch

from mistere.model.losses import supervised_contrastive_loss
from mistere.model.mixture import recurrence
from mistere.model.mixture.dropout import Dropout, dropout
from mistere.model.mixture.fusion import MaskedAttention
from mistere.model.mixture.packed_dialogues import PackedDialogues
from mistere.model.mixture.recurrence import BlockDiagonalGRU, DialogueGRU

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("limit", [0, 2**30], ids=["one-after-the-other", "side-by-side"])
def test_recurrences_in_training_match_torch(bidirectional: bool, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrence, "_CACHE_BYTES", limit)
    torch.manual_seed(0)
    lengths = [5, 1, 9, 5]
    turns = PackedDialogues(lengths)
    several = [DialogueGRU(6, 4, 2, 0.0, bidirectional=bidirectional) for _ in range(3)]
    rows = [torch.randn(len(turns), 6, requires_grad=True) for _ in several]
    factors = [torch.randn(len(turns), 8 if bidirectional else 4) for _ in several]

    def gradients(outputs: list[torch.Tensor]) -> list[torch.Tensor]:
        for tensor in [*rows, *(weight for one in several for weight in one.parameters())]:
            tensor.grad = None
        torch.stack([(one * factor).sum() for one, factor in zip(outputs, factors, strict=True)]).sum().backward()
        return [t.grad for t in [*rows, *(weight for one in several for weight in one.parameters())]]  # type: ignore[misc]

    actual = BlockDiagonalGRU()(several, rows, turns)
    expected = [
        torch.cat([one.gru(part)[0] for part in own.split(lengths)]) for one, own in zip(several, rows, strict=True)
    ]
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    for one, other in zip(gradients(actual), gradients(expected), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.99999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_drops_the_share_and_keeps_the_expectation(rate: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    values = torch.ones(331, 303, dtype=dtype, requires_grad=True)
    result = dropout(values, rate)
    kept = result != 0
    deviation = (rate * (1 - rate) / values.numel()) ** 0.5
    assert abs(float((~kept).double().mean()) - rate) <= 5 * deviation + 2**-16
    if rate < 0.9:
        # Neither neighbours (they share a draw of 64 bits) nor columns are dropped together.
        flat = kept.flatten()[: values.numel() // 4 * 4].view(-1, 4).double()
        assert (torch.corrcoef(flat.T) - torch.eye(4)).abs().max() < 0.04
        assert abs(float(result.double().mean()) - 1) < 0.02
    result.sum().backward()
    torch.testing.assert_close(values.grad, result.detach())  # the same factor
    torch.manual_seed(0)
    assert torch.equal(dropout(values, rate), result)


def test_dropout_draws_nothing_without_training() -> None:
    values, state = torch.ones(4, 5), torch.get_rng_state()
    assert Dropout(0.5).eval()(values) is values
    assert dropout(values, 0.0) is values and dropout(values[:0], 0.5).numel() == 0
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_in_training_matches_torch(causal: bool) -> None:
    torch.manual_seed(0)
    turns = PackedDialogues([5, 1, 7])
    attention = MaskedAttention(8, 6, 3, 1e-9, causal=causal)  # with dropout, at a rate that drops nothing
    rows, keys = torch.randn(13, 8), torch.randn(13, 8)
    present = torch.tensor([True, False, True, True, False, False, *[True] * 7])
    outputs, gradients = [], []
    for training in (True, False):
        attention.train(training).zero_grad()
        output = attention(rows, [keys], [present], turns)
        output.square().sum().backward()
        outputs.append(output.detach())
        gradients.append([weight.grad.clone() for weight in attention.parameters() if weight.grad is not None])
    torch.testing.assert_close(*outputs, atol=1e-6, rtol=1e-5)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("temperature", [0.01, 0.05, 1.0])
def test_contrastive_loss_and_gradient_match_the_definition(temperature: float) -> None:
    torch.manual_seed(0)
    vectors, labels = torch.randn(9, 5, requires_grad=True), torch.tensor([0, 1, 1, 2, 2, 2, 4, 2, 1])
    exact = vectors.detach().double().requires_grad_()
    unit = torch.nn.functional.normalize(exact)
    others = [[a for a in range(9) if a != i] for i in range(9)]
    positives = [[p for p in others[i] if labels[p] == labels[i]] for i in range(9)]
    terms = [
        -(
            unit[i] @ unit[positives[i]].T / temperature - (unit[i] @ unit[others[i]].T / temperature).logsumexp(0)
        ).mean()
        for i in range(9)
        if positives[i]
    ]
    expected = torch.stack(terms).mean()
    actual = supervised_contrastive_loss(vectors, labels, temperature)
    for loss in (expected, actual):
        loss.backward()
    torch.testing.assert_close(actual.double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(vectors.grad.double(), exact.grad, atol=1e-4, rtol=1e-4)  # type: ignore[union-attr]
