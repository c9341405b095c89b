"""A GRU over dialogues without padding, in both directions or forwards only.

Why not ``torch.nn.GRU`` alone: on a CPU its backward pass adds to the gradient of every weight once per step, so it is bound
by memory. With eight dialogues per batch it takes longer than all matrix products together. :class:`_Recurrence` stores the
gates' gradients of all steps, computes the gradient of each weight in one product at the end, and advances both directions
together. The gain is part of the CPU figures of ``mistere bench training_speed``. Delete :class:`_Recurrence`, and call torch's
GRU in training too, once that benchmark shows no loss: torch's backward pass would have to accumulate over steps in one
product.

On a GPU (cuDNN) and without gradients, torch's own GRU runs on the same weights: one call for all steps, during which no other
thread can take the interpreter. In inference a step is too little work for the dozen calls it takes, so :class:`BlockDiagonalGRU`
computes the experts' recurrences as one, with half as many steps. The gain shows in ``mistere bench serving_speed`` (short
turns). Delete it if torch computes several GRUs in one call, or if that benchmark shows no loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from mistere.model.mixture.packed_dialogues import PackedDialogues


class DialogueGRU(nn.Module):
    """``[N, D]`` to ``[N, R H]`` in R directions; the output of a dialogue depends on its own turns only.

    Args:
        width: D.
        hidden: H of each direction.
        layers: number of layers; each reads all directions of the layer below.
        dropout: between layers.
        bidirectional: R is 2. Otherwise R is 1, forwards in time: the output of a turn depends on it and earlier turns.
    """

    def __init__(self, width: int, hidden: int, layers: int, dropout: float, *, bidirectional: bool = True) -> None:
        super().__init__()
        self.directions = ("", "_reverse") if bidirectional else ("",)
        self.gru = nn.GRU(width, hidden, layers, bidirectional=bidirectional, dropout=dropout if layers > 1 else 0.0)

    def forward(self, rows: Tensor, turns: PackedDialogues) -> Tensor:
        if rows.is_cuda or not _learns():
            return _packed(self.gru, rows, turns)
        gru = self.gru
        for layer in range(gru.num_layers):
            if layer:
                rows = functional.dropout(rows, gru.dropout, self.training)
            orders = turns.by_time[: len(self.directions)]
            names = [f"l{layer}{direction}" for direction in self.directions]
            inputs = [
                functional.linear(rows, getattr(gru, f"weight_ih_{name}"), getattr(gru, f"bias_ih_{name}"))[order]
                for name, order in zip(names, orders, strict=True)
            ]
            low = inputs[0].dtype
            with torch.autocast("cpu", enabled=False):
                weights, biases = (
                    torch.stack([getattr(gru, f"{kind}_hh_{name}") for name in names]) for kind in ("weight", "bias")
                )
                states = _Recurrence.apply(torch.stack(inputs).to(weights.dtype), weights, biases, turns.steps, low)
            in_place = [state[_inverse(order)] for state, order in zip(states, orders, strict=True)]
            rows = torch.cat(in_place, dim=1).to(low)
        return rows


class BlockDiagonalGRU:
    """Several recurrences of equal shape as one, with their matrices as blocks on the diagonal and zeros elsewhere.

    The products then take quadratic work, so this is used for few dialogues at a time only. The joined weights are rebuilt
    when the original weights may have changed: after training (an optimiser may change a weight without changing its
    version), or after other weights were loaded.
    """

    def __init__(self) -> None:
        self._joined: nn.GRU | None = None
        self._sources: list[tuple[int, int]] = []

    def __call__(
        self, recurrences: Sequence[DialogueGRU], rows: Sequence[Tensor], turns: PackedDialogues
    ) -> list[Tensor]:
        """Output ``[N, R H]`` of every recurrence for its rows ``[N, D]``."""
        if _learns():
            self._joined = None
        few = turns.steps[0] <= _FEW and len(recurrences) > 1
        if not few or rows[0].is_cuda or _learns() or recurrences[0].training:
            return [recurrence(own, turns) for recurrence, own in zip(recurrences, rows, strict=True)]
        states = _packed(self._current([recurrence.gru for recurrence in recurrences]), torch.cat(list(rows), 1), turns)
        directions = len(recurrences[0].directions)
        return [one.flatten(1) for one in states.unflatten(1, (directions, len(recurrences), -1)).unbind(2)]

    def _current(self, grus: Sequence[nn.GRU]) -> nn.GRU:
        sources = [(weight.data_ptr(), weight._version) for gru in grus for weight in gru.parameters()]
        if self._joined is None or sources != self._sources:
            self._joined, self._sources = _joined(grus), sources
        return self._joined


_FEW = 16
"""Up to this many dialogues, the joined recurrence is faster than the recurrences one after another."""


@torch.inference_mode(False)
@torch.no_grad()
def _joined(grus: Sequence[nn.GRU]) -> nn.GRU:
    first, count = grus[0], len(grus)
    joined = nn.GRU(
        count * first.input_size, count * first.hidden_size, first.num_layers, bidirectional=first.bidirectional
    )
    for name, target in joined.named_parameters():
        target.zero_()
        below = 2 if first.bidirectional and name.startswith("weight_ih") and "_l0" not in name else 1
        for index, gru in enumerate(grus):
            source = getattr(gru, name)
            if source.ndim == 1:
                target.view(3, count, -1)[:, index] = source.view(3, -1)
                continue
            width = source.shape[1] // below
            target.view(3, count, -1, below, count, width)[:, index, :, :, index] = source.view(3, -1, below, width)
    return joined.requires_grad_(False).eval()


def _learns() -> bool:
    return torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")


def _packed(gru: nn.GRU, rows: Tensor, turns: PackedDialogues) -> Tensor:
    """Output of torch's own GRU for rows ``[N, D]``."""
    order, _ = turns.by_time
    return gru(PackedSequence(rows[order], torch.tensor(turns.steps)))[0].data[_inverse(order)]


def _inverse(order: Tensor) -> Tensor:
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))


class _Recurrence(torch.autograd.Function):
    """The steps of one layer, all R directions at once, with a hand-written backward pass (the module's docstring says why).

    ``r = σ(i_r + h_r)``, ``z = σ(i_z + h_z)``, ``n = tanh(i_n + r h_n)``, ``h' = n + z (h − n)`` where ``i_x`` come from
    the input and ``h_x`` from the state, as in ``torch.nn.GRU``. Time per step: one product ``[R, b, H] × [R, H, 3 H]`` and a
    dozen elementwise operations. Memory for the backward pass: 5 R N H floats.
    """

    @staticmethod
    def forward(ctx: Any, gates: Tensor, weights: Tensor, biases: Tensor, steps: list[int], low: torch.dtype) -> Tensor:
        """States ``[R, N, H]``.

        Args:
            ctx: stores tensors for the backward pass.
            gates: the input's part of the gates ``[R, N, 3 H]``, ordered by time.
            weights: the state's weights ``[R, 3 H, H]``, forwards in time first.
            biases: the state's biases ``[R, 3 H]``.
            steps: number of dialogues in each step, non-increasing.
            low: precision of the products.
        """
        directions, _, hidden = weights.shape
        weights = weights.to(low)
        transposed = weights.transpose(1, 2)
        states = gates.new_empty(directions, gates.shape[1], hidden)
        before, candidates, recalled = (torch.empty_like(states) for _ in range(3))
        opened = gates.new_empty(directions, gates.shape[1], 2 * hidden)
        state = gates.new_zeros(directions, steps[0], hidden)
        start = 0
        for count in steps:
            span = slice(start, start + count)
            state = state[:, :count]
            before[:, span] = state
            recurrent = torch.bmm(state.to(low), transposed).to(gates.dtype).add_(biases[:, None])
            open_ = torch.add(gates[:, span, : 2 * hidden], recurrent[..., : 2 * hidden]).sigmoid_()
            reset, keep = open_.chunk(2, dim=2)
            recall = recurrent[..., 2 * hidden :]
            candidate = torch.addcmul(gates[:, span, 2 * hidden :], reset, recall).tanh_()
            state = torch.lerp(candidate, state, keep)
            opened[:, span], candidates[:, span], recalled[:, span], states[:, span] = open_, candidate, recall, state
            start += count
        ctx.save_for_backward(weights, before, opened, candidates, recalled)
        ctx.steps, ctx.low = steps, low
        return states

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of gates, weights and biases."""
        weights, before, opened, candidates, recalled = ctx.saved_tensors
        (grads,) = upstream
        low = ctx.low
        reset, keep = opened.chunk(2, dim=2)
        # The factor from the state's gradient to each gate's, for all steps at once; the loop only multiplies and carries back.
        of_candidate = (1 - keep) * (1 - candidates * candidates)
        of_keep = (before - candidates) * keep * (1 - keep)
        of_reset = of_candidate * recalled * reset * (1 - reset)
        of_recurrent = torch.stack([of_reset, of_keep, of_candidate * reset], dim=2)
        recurrent = torch.empty_like(of_recurrent)
        total = grads.contiguous().clone()
        carried = grads.new_zeros(len(grads), 0, grads.shape[2])
        end = grads.shape[1]
        for count in reversed(ctx.steps):
            span = slice(end - count, end)
            grad = total[:, span]
            grad[:, : carried.shape[1]] += carried
            recurrent[:, span] = of_recurrent[:, span] * grad[:, :, None]
            back = torch.bmm(recurrent[:, span].flatten(2).to(low), weights).to(grads.dtype)
            carried = back.addcmul_(grad, keep[:, span])
            end -= count
        # The reset gate scales the state's part of the candidate, but not the input's.
        into = torch.cat([recurrent[:, :, :2].flatten(2), of_candidate * total], dim=2)
        recurrent = recurrent.flatten(2)
        weight_grads = torch.bmm(recurrent.to(low).transpose(1, 2), before.to(low)).to(recurrent.dtype)
        return into, weight_grads, recurrent.sum(1), None, None
