"""The context layers of a unimodal expert: an utterance's representation given the turns around it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mistere.model.mixture.dropout import Dropout
from mistere.model.mixture.packed_dialogues import PackedDialogues
from mistere.model.mixture.recurrence import DialogueGRU


class ContextLayers(nn.Module):
    """Parallel convolutions over turns, summed, then a GRU, plus a linear skip of the input.

    ``[N, D]`` to ``[N, 2 H]``, in three parts, so that the GRUs of several experts can be computed together:
    ``after(gru(before(rows, turns), turns), rows)``. A convolution is a linear layer over a window of turns
    with zeros beyond the ends of the dialogue, so the output of a dialogue is the same alone and in any batch. The window is
    centred on the turn and the GRU has two directions of H. In causal layers the window ends with the turn, and the GRU has
    one direction of 2 H.

    Args:
        width: D.
        hidden: H.
        layers: of the GRU.
        kernels: window size of each convolution in turns; odd.
        dropout: before, in and after the GRU.
        skip_dropout: of the skip.
        causal: whether a turn sees itself and earlier turns only.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        layers: int,
        kernels: Sequence[int],
        dropout: float,
        *,
        skip_dropout: float = 0.0,
        causal: bool = False,
    ) -> None:
        super().__init__()
        if any(kernel % 2 == 0 for kernel in kernels):
            raise ValueError("kernels must be odd, so that a turn is in the middle of its window")
        self.kernels, self.causal = list(kernels), causal
        self.convolutions = nn.ModuleList(nn.Linear(kernel * width, 2 * hidden) for kernel in kernels)
        self.dropout = Dropout(dropout)
        self.gru = DialogueGRU(2 * hidden, 2 * hidden if causal else hidden, layers, dropout, bidirectional=not causal)
        self.skip = nn.Linear(width, 2 * hidden)
        self.skip_dropout = Dropout(skip_dropout)

    def before(self, rows: Tensor, turns: PackedDialogues) -> Tensor:
        """Input of the GRU ``[N, 2 H]``: the sum of the convolutions."""
        widest, width = max(self.kernels), rows.shape[1]
        windows = turns.windows(rows, widest, causal=self.causal)
        mixed = torch.zeros((), device=rows.device)
        for kernel, convolution in zip(self.kernels, self.convolutions, strict=True):
            margin = (widest - kernel) // (1 if self.causal else 2) * width
            mixed = mixed + convolution(windows[:, margin : margin + kernel * width]).relu()
        return self.dropout(mixed)

    def after(self, states: Tensor, rows: Tensor) -> Tensor:
        """Output ``[N, 2 H]`` from the GRU's states ``[N, 2 H]`` and the input ``[N, D]``."""
        return self.dropout(states) + self.skip_dropout(self.skip(rows))
