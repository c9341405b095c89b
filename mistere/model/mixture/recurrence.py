"""A GRU over dialogues without padding, in both directions or forwards alone.

torch's own GRU adds to every weight's gradient once a step, so on a CPU its backward pass is bound by memory: with eight
dialogues a batch it takes longer than all its products. Here the recurrence keeps the gates' gradients of all steps and
makes each weight's gradient in one product at the end; directions advance together. On a GPU (cuDNN), and where nothing is
learnt, torch's own is used on the same weights: one call for all steps, which no other thread can hold up between two of them.
There a step is too little work for a core to be worth its dozen calls, so the experts' recurrences are computed as one
(:class:`BlockDiagonalGRU`): half as many steps.
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
    """``[N, D]`` to ``[N, R H]`` in R directions; a dialogue's answer depends on its own turns alone.

    Args:
        width: D.
        hidden: H of each direction.
        layers: how many, each over all directions of the one below.
        dropout: between layers.
        bidirectional: R is 2; else 1, forwards in time: a turn's answer depends on itself and the turns before it.
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
    """Several recurrences of one shape as one, whose matrices are theirs along the diagonal and zero elsewhere.

    That squares the products' work, so it is done for few dialogues at a time only. The joined weights are made anew when
    those they are made of may have changed: after something was learnt (an optimiser need not leave a trace in a weight's
    version), or when other weights were read into them.
    """

    def __init__(self) -> None:
        self._joined: nn.GRU | None = None
        self._made_of: list[tuple[int, int]] = []

    def __call__(
        self, recurrences: Sequence[DialogueGRU], rows: Sequence[Tensor], turns: PackedDialogues
    ) -> list[Tensor]:
        """Every recurrence's answer ``[N, R H]`` to its rows ``[N, D]``."""
        if _learns():
            self._joined = None
        few = turns.steps[0] <= _FEW and len(recurrences) > 1
        if not few or rows[0].is_cuda or _learns() or recurrences[0].training:
            return [recurrence(own, turns) for recurrence, own in zip(recurrences, rows, strict=True)]
        states = _packed(self._current([recurrence.gru for recurrence in recurrences]), torch.cat(list(rows), 1), turns)
        directions = len(recurrences[0].directions)
        return [one.flatten(1) for one in states.unflatten(1, (directions, len(recurrences), -1)).unbind(2)]

    def _current(self, grus: Sequence[nn.GRU]) -> nn.GRU:
        made_of = [(weight.data_ptr(), weight._version) for gru in grus for weight in gru.parameters()]
        if self._joined is None or made_of != self._made_of:
            self._joined, self._made_of = _joined(grus), made_of
        return self._joined


_FEW = 16
"""Dialogues at a time up to which recurrences side by side take less time than one after the other."""


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
    """The recurrence as torch computes it, over rows ``[N, D]``."""
    order, _ = turns.by_time
    return gru(PackedSequence(rows[order], torch.tensor(turns.steps)))[0].data[_inverse(order)]


def _inverse(order: Tensor) -> Tensor:
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))


class _Recurrence(torch.autograd.Function):
    """One layer's steps, all R directions at once, with a backward pass written out.

    ``r = σ(i_r + h_r)``, ``z = σ(i_z + h_z)``, ``n = tanh(i_n + r h_n)``, ``h' = n + z (h − n)`` where ``i`` are the inputs'
    gates and ``h_x`` the state's (torch.nn.GRU). Time: one product ``[R, b, H] × [R, H, 3 H]`` and a dozen elementwise
    operations a step; memory: 5 R N H floats for the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, gates: Tensor, weights: Tensor, biases: Tensor, steps: list[int], low: torch.dtype) -> Tensor:
        """States ``[R, N, H]``.

        Args:
            ctx: keeps what the backward pass needs.
            gates: the inputs' ``[R, N, 3 H]``, ordered by time.
            weights: of the state ``[R, 3 H, H]``, forwards in time, then backwards.
            biases: of the state ``[R, 3 H]``.
            steps: dialogues that take part in each step, falling.
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
            here = slice(start, start + count)
            state = state[:, :count]
            before[:, here] = state
            said = torch.bmm(state.to(low), transposed).to(gates.dtype).add_(biases[:, None])
            open_ = torch.add(gates[:, here, : 2 * hidden], said[..., : 2 * hidden]).sigmoid_()
            reset, keep = open_.chunk(2, dim=2)
            recall = said[..., 2 * hidden :]
            candidate = torch.addcmul(gates[:, here, 2 * hidden :], reset, recall).tanh_()
            state = torch.lerp(candidate, state, keep)
            opened[:, here], candidates[:, here], recalled[:, here], states[:, here] = open_, candidate, recall, state
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
        # What each gate's gradient is of the state's, for all steps at once; the steps then only multiply and carry back.
        of_candidate = (1 - keep) * (1 - candidates * candidates)
        of_keep = (before - candidates) * keep * (1 - keep)
        of_reset = of_candidate * recalled * reset * (1 - reset)
        of_said = torch.stack([of_reset, of_keep, of_candidate * reset], dim=2)
        said = torch.empty_like(of_said)
        total = grads.contiguous().clone()
        carried = grads.new_zeros(len(grads), 0, grads.shape[2])
        end = grads.shape[1]
        for count in reversed(ctx.steps):
            here = slice(end - count, end)
            grad = total[:, here]
            grad[:, : carried.shape[1]] += carried
            said[:, here] = of_said[:, here] * grad[:, :, None]
            back = torch.bmm(said[:, here].flatten(2).to(low), weights).to(grads.dtype)
            carried = back.addcmul_(grad, keep[:, here])
            end -= count
        # The input's part of the candidate is not scaled by the reset gate, the state's is.
        into = torch.cat([said[:, :, :2].flatten(2), of_candidate * total], dim=2)
        said = said.flatten(2)
        weight_grads = torch.bmm(said.to(low).transpose(1, 2), before.to(low)).to(said.dtype)
        return into, weight_grads, said.sum(1), None, None
