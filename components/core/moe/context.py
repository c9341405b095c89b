"""The context layers of a unimodal expert: what an utterance means given the turns around it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from components.core.moe.recurrence import BidirectionalGRU
from components.core.moe.turns import Turns


class ContextLayers(nn.Module):
    """Parallel convolutions over turns, summed, then a bidirectional GRU, plus a linear skip of the input.

    ``[N, D]`` to ``[N, 2 H]``. A convolution is a linear layer over a window of turns, which is zero beyond the ends of the
    dialogue, so a dialogue's output is the same alone and in any batch.

    Args:
        width: D.
        hidden: H.
        layers: of the GRU.
        kernels: turns that each convolution sees; odd.
        dropout: before, in and after the GRU.
    """

    def __init__(self, width: int, hidden: int, layers: int, kernels: Sequence[int], dropout: float) -> None:
        super().__init__()
        if any(kernel % 2 == 0 for kernel in kernels):
            raise ValueError("kernels must be odd, so that a turn is in the middle of its window")
        self.kernels = list(kernels)
        self.convolutions = nn.ModuleList(nn.Linear(kernel * width, 2 * hidden) for kernel in kernels)
        self.dropout = nn.Dropout(dropout)
        self.gru = BidirectionalGRU(2 * hidden, hidden, layers, dropout)
        self.skip = nn.Linear(width, 2 * hidden)

    def forward(self, rows: Tensor, turns: Turns) -> Tensor:
        widest, width = max(self.kernels), rows.shape[1]
        windows = turns.windows(rows, widest)
        mixed = torch.zeros((), device=rows.device)
        for kernel, convolution in zip(self.kernels, self.convolutions, strict=True):
            margin = (widest - kernel) // 2 * width
            mixed = mixed + convolution(windows[:, margin : margin + kernel * width]).relu()
        states = self.gru(self.dropout(mixed), turns)
        return self.dropout(states) + self.skip(rows)
