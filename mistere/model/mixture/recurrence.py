"""A GRU over dialogues without padding, in both directions or forwards only.

Why not ``torch.nn.GRU`` alone: on a CPU its backward pass adds to the gradient of every weight once per step, so it is bound
by memory. With eight dialogues per batch it takes longer than all matrix products together. :class:`_Recurrence` stores the
gates' gradients of all steps, computes the gradient of each weight in one product at the end, and advances both directions
together, and those of several experts where their matrices are small: a step is then a dozen operations on little data, and their
number is what counts. The gain is part of the CPU figures of ``mistere bench training_speed``. Delete :class:`_Recurrence`, and
call torch's GRU in training too, once that benchmark shows no loss: torch's backward pass would have to accumulate over steps in
one product.

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

from mistere.model.mixture.dropout import dropout
from mistere.model.mixture.packed_dialogues import PackedDialogues, StepOrder


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
        return _side_by_side([self], [rows], turns)[0]

    @property
    def matrix_bytes(self) -> int:
        """Size of the matrices that each step of one layer reads, in fp32."""
        return len(self.directions) * 3 * self.gru.hidden_size**2 * 4


class BlockDiagonalGRU:
    """Several recurrences of equal shape as one, with their matrices as blocks on the diagonal and zeros elsewhere.

    The products then take quadratic work, so this is used for few dialogues at a time only. The joined weights are rebuilt
    when the original weights may have changed: after training (an optimiser may change a weight without changing its
    version), or after other weights were loaded. In training the recurrences advance side by side, in one product of
    separate matrices, if the matrices are small.
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
            if not rows[0].is_cuda and sum(recurrence.matrix_bytes for recurrence in recurrences) <= _CACHE_BYTES:
                return _side_by_side(recurrences, rows, turns)
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
_CACHE_BYTES = 4 * 2**20
"""Up to this size of their matrices, recurrences advance side by side in training; larger ones would evict each other from the
cache, and each step reads them all (H = 512, two experts: 33 instead of 54 GFLOP/s)."""


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


def _side_by_side(recurrences: Sequence[DialogueGRU], rows: Sequence[Tensor], turns: PackedDialogues) -> list[Tensor]:
    """Output ``[N, R H]`` of each recurrence for its rows ``[N, D]``, all recurrences advancing together, with gradients."""
    first = recurrences[0]
    order = turns.steps_of(len(first.directions), len(recurrences))
    rows = list(rows)
    for layer in range(first.gru.num_layers):
        if layer:
            rows = [dropout(one, first.gru.dropout, training=first.training) for one in rows]
        weights = [
            [getattr(recurrence.gru, f"{name}_l{layer}{direction}") for name in _WEIGHTS]
            for recurrence in recurrences
            for direction in first.directions
        ]
        inputs = [
            functional.linear(rows[index // len(first.directions)], weight, bias)
            for index, (weight, bias, _, _) in enumerate(weights)
        ]
        low = inputs[0].dtype
        with torch.autocast("cpu", enabled=False):
            matrices, biases = (torch.stack([one[kind] for one in weights]) for kind in (2, 3))
            states = _Recurrence.apply(torch.stack(inputs).to(matrices.dtype), matrices, biases, order, low)
        joined = states.unflatten(0, (len(recurrences), -1)).transpose(1, 2).flatten(2)
        rows = list(joined.to(low).unbind(0))
    return rows


_WEIGHTS = ("weight_ih", "bias_ih", "weight_hh", "bias_hh")


def _inverse(order: Tensor) -> Tensor:
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))


class _Recurrence(torch.autograd.Function):
    """The steps of one layer, all R directions at once, with a hand-written backward pass (the module's docstring says why).

    ``r = σ(i_r + h_r)``, ``z = σ(i_z + h_z)``, ``n = tanh(i_n + r h_n)``, ``h' = n + z (h − n)`` where ``i_x`` come from
    the input and ``h_x`` from the state, as in ``torch.nn.GRU``. Time per step: one product ``[R, b, H] × [R, H, 3 H]`` and
    four elementwise operations forwards, two backwards. The rows of a step are contiguous, in the order of
    :class:`~mistere.model.mixture.packed_dialogues.StepOrder`, so that each operation writes to its place in the tensor of all
    steps. Memory for the backward pass: 7 R N H floats.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weights: Tensor, biases: Tensor, order: StepOrder, low: torch.dtype
    ) -> Tensor:
        """States ``[R, N, H]``.

        Args:
            ctx: stores tensors for the backward pass.
            inputs: the input's part of the gates ``[R, N, 3 H]``.
            weights: the state's weights ``[R, 3 H, H]``.
            biases: the state's biases ``[R, 3 H]``.
            order: of the steps.
            low: precision of the products.
        """
        directions, rows, _ = inputs.shape
        hidden = weights.shape[2]
        weights = weights.to(low)
        transposed = weights.transpose(1, 2)
        # The sums start with the biases, and for reset and keep with the input's part; each step adds its product.
        sums = (inputs + biases[:, None]).flatten(0, 1).index_select(0, order.by_step)
        of_candidate = inputs[..., 2 * hidden :].flatten(0, 1).index_select(0, order.by_step)
        sums[:, 2 * hidden :] -= of_candidate
        opened = sums.new_empty(directions * rows, 2 * hidden)
        candidates, states = (sums.new_empty(directions * rows, hidden) for _ in range(2))
        state = sums.new_zeros(directions * order.steps[0], hidden)
        sizes = order.sizes
        before = order.steps[0]
        for count, all_, to_open, recall, open_, reset, keep, own, candidate, after in zip(
            order.steps,
            sums.split(sizes),
            sums[:, : 2 * hidden].split(sizes),
            sums[:, 2 * hidden :].split(sizes),
            opened.split(sizes),
            opened[:, :hidden].split(sizes),
            opened[:, hidden:].split(sizes),
            of_candidate.split(sizes),
            candidates.split(sizes),
            states.split(sizes),
            strict=True,
        ):
            if count < before:
                state = state.view(directions, before, hidden)[:, :count].reshape(-1, hidden)
            _add_product(all_.view(directions, count, -1), state.view(directions, count, hidden), transposed, low)
            torch.sigmoid(to_open, out=open_)
            torch.addcmul(own, reset, recall, out=candidate).tanh_()
            state = torch.lerp(candidate, state, keep, out=after)
            before = count
        ctx.save_for_backward(weights, states, opened, candidates, sums)
        ctx.order, ctx.low = order, low
        return states.index_select(0, order.by_row).view(directions, rows, hidden)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of inputs, weights and biases."""
        weights, states, opened, candidates, sums = ctx.saved_tensors
        (grads,) = upstream
        order, low = ctx.order, ctx.low
        directions, rows, hidden = grads.shape
        reset, keep = opened.chunk(2, dim=1)
        before = states.index_select(0, order.before)
        before[: order.sizes[0]] = 0
        # The factor from the state's gradient to each gate's, for all steps at once; the loop only multiplies and carries back.
        of_candidate = (1 - keep) * (1 - candidates * candidates)
        recurrent = torch.stack(
            [
                of_candidate * sums[:, 2 * hidden :] * reset * (1 - reset),
                (before - candidates) * keep * (1 - keep),
                of_candidate * reset,
            ],
            dim=1,
        )
        total = grads.reshape(directions * rows, hidden).index_select(0, order.by_step)
        sizes, steps = order.sizes, order.steps
        totals, spread = total.split(sizes), total[:, None].split(sizes)
        keeps, gates = keep.split(sizes), recurrent.split(sizes)
        for index in range(len(steps) - 1, -1, -1):
            count, grad, gate = steps[index], totals[index], gates[index]
            gate.mul_(spread[index])
            if not index:
                break
            gate = gate.view(directions, count, 3 * hidden)
            earlier = totals[index - 1]
            if steps[index - 1] == count:
                earlier.addcmul_(grad, keeps[index])
                _add_product(earlier.view(directions, count, hidden), gate, weights, low)
                continue
            carried = torch.mul(grad, keeps[index]).view(directions, count, hidden)
            _add_product(carried, gate, weights, low)
            earlier.view(directions, -1, hidden)[:, :count] += carried
        recurrent = recurrent.flatten(1).index_select(0, order.by_row).view(directions, rows, 3 * hidden)
        # The reset gate scales the state's part of the candidate, but not the input's.
        candidate = (of_candidate * total).index_select(0, order.by_row).view(directions, rows, hidden)
        into = torch.cat([recurrent[..., : 2 * hidden], candidate], dim=2)
        before = before.index_select(0, order.by_row).view(directions, rows, hidden)
        weight_grads = torch.bmm(recurrent.to(low).transpose(1, 2), before.to(low)).to(recurrent.dtype)
        return into, weight_grads, recurrent.sum(1), None, None


def _add_product(total: Tensor, left: Tensor, right: Tensor, low: torch.dtype) -> None:
    """Add ``left × right`` in precision ``low`` to ``total``."""
    if total.dtype == low:
        total.baddbmm_(left, right)
    else:
        total.add_(torch.bmm(left.to(low), right))
