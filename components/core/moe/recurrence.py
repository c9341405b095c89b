"""A bidirectional GRU over dialogues without padding.

torch's own GRU adds to every weight's gradient once a step, so on a CPU its backward pass is bound by memory: with eight
dialogues a batch it takes longer than all its products. Here the recurrence keeps the gates' gradients of all steps and
makes each weight's gradient in one product at the end; both directions advance together. On a GPU torch's own (cuDNN) is
used, on the same weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from components.core.moe.turns import Turns


class BidirectionalGRU(nn.Module):
    """``[N, D]`` to ``[N, 2 H]``; a dialogue's answer depends on its own turns alone.

    Args:
        width: D.
        hidden: H of each direction.
        layers: how many, each over both directions of the one below.
        dropout: between layers.
    """

    def __init__(self, width: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.gru = nn.GRU(width, hidden, layers, bidirectional=True, dropout=dropout if layers > 1 else 0.0)

    def forward(self, rows: Tensor, turns: Turns) -> Tensor:
        if rows.is_cuda:
            return self._on_gpu(rows, turns)
        gru = self.gru
        for layer in range(gru.num_layers):
            if layer:
                rows = functional.dropout(rows, gru.dropout, self.training)
            one, other = (
                functional.linear(rows, getattr(gru, f"weight_ih_{name}"), getattr(gru, f"bias_ih_{name}"))
                for name in (f"l{layer}", f"l{layer}_reverse")
            )
            state = [
                getattr(gru, f"{kind}_hh_l{layer}{suffix}")
                for kind in ("weight", "bias")
                for suffix in ("", "_reverse")
            ]
            order, mirrored = turns.by_time
            gates = torch.stack([one[order], other[mirrored]]).to(state[0].dtype)
            with torch.autocast("cpu", enabled=False):
                states = _Recurrence.apply(gates, *state, turns.steps, one.dtype)
            rows = torch.cat([states[0][_inverse(order)], states[1][_inverse(mirrored)]], dim=1).to(one.dtype)
        return rows

    def _on_gpu(self, rows: Tensor, turns: Turns) -> Tensor:
        order, _ = turns.by_time
        packed = PackedSequence(rows[order], torch.tensor(turns.steps))
        return self.gru(packed)[0].data[_inverse(order)]


def _inverse(order: Tensor) -> Tensor:
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))


class _Recurrence(torch.autograd.Function):
    """One layer's steps, both directions at once, with a backward pass written out.

    ``r = σ(i_r + h_r)``, ``z = σ(i_z + h_z)``, ``n = tanh(i_n + r h_n)``, ``h' = n + z (h − n)`` where ``i`` are the inputs'
    gates and ``h_x`` the state's (torch.nn.GRU). Time: one product ``[2, b, H] × [2, H, 3 H]`` and a dozen elementwise
    operations a step; memory: 8 N H floats for the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        gates: Tensor,
        weight: Tensor,
        mirrored_weight: Tensor,
        bias: Tensor,
        mirrored_bias: Tensor,
        steps: list[int],
        low: torch.dtype,
    ) -> Tensor:
        """States ``[2, N, H]``.

        Args:
            ctx: keeps what the backward pass needs.
            gates: the inputs' ``[2, N, 3 H]``, ordered by time.
            weight: of the state ``[3 H, H]``, forwards in time.
            mirrored_weight: the same, backwards.
            bias: of the state ``[3 H]``, forwards in time.
            mirrored_bias: the same, backwards.
            steps: dialogues that take part in each step, falling.
            low: precision of the products.
        """
        hidden = weight.shape[1]
        weights = torch.stack([weight.to(low), mirrored_weight.to(low)])
        biases = torch.stack([bias, mirrored_bias])[:, None]
        transposed = weights.transpose(1, 2)
        states = gates.new_empty(2, gates.shape[1], hidden)
        before, candidates, recalled = (torch.empty_like(states) for _ in range(3))
        opened = gates.new_empty(2, gates.shape[1], 2 * hidden)
        state = gates.new_zeros(2, steps[0], hidden)
        start = 0
        for count in steps:
            here = slice(start, start + count)
            state = state[:, :count]
            before[:, here] = state
            said = torch.bmm(state.to(low), transposed).to(gates.dtype).add_(biases)
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
        """Gradients of gates, both weights and both biases."""
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
        carried = grads.new_zeros(2, 0, grads.shape[2])
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
        bias_grads = said.sum(1)
        return into, weight_grads[0], weight_grads[1], bias_grads[0], bias_grads[1], None, None
