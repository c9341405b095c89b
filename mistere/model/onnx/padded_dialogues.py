"""The mixture's view of dialogues inside a graph: all padded to one length, because a graph cannot follow their lengths.

:class:`PaddedDialogues` takes the place of :class:`~mistere.model.mixture.packed_dialogues.PackedDialogues`, and
:class:`PaddedRecurrences` that of the mixture's recurrences, so that the mixture's own code is exported. Rows are padded turns here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from mistere.model.mixture.recurrence import DialogueGRU


class PaddedDialogues:
    """The layout of B T rows: dialogues of up to T turns, padded.

    Args:
        lengths: number of turns of each dialogue ``[B]``, at least 1.
        inside: the turns that are no padding ``[B, T]``.
    """

    def __init__(self, lengths: Tensor, inside: Tensor) -> None:
        self.lengths, self._inside = lengths, inside

    def alone(self) -> PaddedDialogues:
        """Every row as a dialogue of its own."""
        inside = self._inside.reshape(-1, 1)
        return PaddedDialogues(torch.ones_like(inside[:, 0], dtype=torch.long), inside)

    def windows(self, rows: Tensor, size: int, *, causal: bool = False) -> Tensor:
        """``[B T, D]`` to ``[B T, size · D]``: each row with its neighbours; rows of padding are zero, as those beyond the ends."""
        if size == 1:
            return rows
        after = 0 if causal else size // 2
        padded = functional.pad(self._by_dialogue(rows), (0, 0, size - 1 - after, after))
        shifted = [padded[:, shift : shift - size + 1 or None] for shift in range(size)]
        return torch.cat(shifted, dim=-1).flatten(0, 1)

    @property
    def up_to(self) -> Tensor:
        """Causal mask ``[T, T]``: the turns (second axis) visible to each turn (first axis), itself and earlier ones."""
        turns = torch.ones_like(self._inside[0], dtype=torch.long).cumsum(0)
        return turns[:, None] >= turns[None, :]

    def any_seen(self, marks: Tensor, *, causal: bool = False) -> Tensor:
        """Whether the dialogue of each row has a marked turn (if causal: up to the row itself): ``[B T]`` to ``[B T]``."""
        counts = self.pad(marks).long().cumsum(1)
        seen = counts if causal else counts[:, -1:].expand_as(counts)
        return (seen > 0).flatten()

    def pad(self, rows: Tensor) -> Tensor:
        """``[B T, ...]`` to ``[B, T, ...]``; marks are False at padding."""
        padded = self._by_dialogue(rows)
        return padded & self._inside if rows.dtype == torch.bool else padded

    def unpad(self, padded: Tensor) -> Tensor:
        """``[B, T, ...]`` to ``[B T, ...]``."""
        return padded.flatten(0, 1)

    def recurrence(self, gru: torch.nn.GRU, rows: Tensor) -> Tensor:
        """Output ``[B T, R H]`` of a GRU for rows ``[B T, D]``; zero at padding."""
        padded = self._by_dialogue(rows)
        directions = 2 if gru.bidirectional else 1
        start = padded.new_zeros(directions * gru.num_layers, padded.shape[0], gru.hidden_size)
        packed = pack_padded_sequence(padded.transpose(0, 1), self.lengths)
        return pad_packed_sequence(gru(packed, start)[0])[0].transpose(0, 1).flatten(0, 1)

    def _by_dialogue(self, rows: Tensor) -> Tensor:
        return rows.reshape(*self._inside.shape, *rows.shape[1:])


class PaddedRecurrences:
    """The recurrences of several experts, one after another."""

    def __call__(
        self, recurrences: Sequence[DialogueGRU], rows: Sequence[Tensor], turns: PaddedDialogues
    ) -> list[Tensor]:
        """Output ``[B T, R H]`` of every recurrence for its rows ``[B T, D]``."""
        return [turns.recurrence(one.gru, own) for one, own in zip(recurrences, rows, strict=True)]
