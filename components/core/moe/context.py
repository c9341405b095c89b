"""The context layers of a unimodal expert: what an utterance means given the turns around it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class ContextLayers(nn.Module):
    """Parallel convolutions over turns, summed, then a bidirectional GRU, plus a linear skip of the input.

    ``[B, T, D]`` and mask ``[B, T]`` to ``[B, T, 2 H]``. Padded turns are zero before every convolution and are no part of
    the packed GRU, so a dialogue's output is the same alone and in any batch.
    """

    def __init__(self, width: int, hidden: int, layers: int, kernels: Sequence[int], dropout: float) -> None:
        super().__init__()
        if any(kernel % 2 == 0 for kernel in kernels):
            raise ValueError("kernels must be odd, so that a turn is in the middle of its window")
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, 2 * hidden, kernel, padding=kernel // 2) for kernel in kernels
        )
        self.dropout = nn.Dropout(dropout)
        self.gru = nn.GRU(
            2 * hidden, hidden, layers, batch_first=True, bidirectional=True, dropout=dropout if layers > 1 else 0.0
        )
        self.skip = nn.Linear(width, 2 * hidden)

    def forward(self, inputs: Tensor, mask: Tensor) -> Tensor:
        real = mask[..., None].to(inputs.dtype)
        inputs = inputs * real
        turns = inputs.transpose(1, 2)
        mixed = torch.stack([convolution(turns).relu() for convolution in self.convolutions]).sum(0).transpose(1, 2)
        packed = pack_padded_sequence(
            self.dropout(mixed), mask.sum(1).clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
        )
        states, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=inputs.shape[1])
        return (self.dropout(states) + self.skip(inputs)) * real
