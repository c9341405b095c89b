"""Dialogues without padding: the utterances of all dialogues as rows, and the offset of each dialogue.

Layers that work on single utterances work on the rows, so no product is spent on padding. Layers that look at other turns get
them from here: windows for the convolutions, an order by time for the recurrence, a padded form and a mask for attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class StepOrder:
    """The order of R N states in which a recurrence computes them: by step, then by direction, then by dialogue.

    Attributes:
        steps: number of dialogues in each step, non-increasing.
        sizes: R times that.
        by_step: of each state in this order, its index among the states by direction and row ``[R N]``.
        by_row: the inverse ``[R N]``.
        before: of each state in this order, the index in this order of the state before it ``[R N]``; 0 in the first step.
    """

    steps: list[int]
    sizes: list[int]
    by_step: Tensor
    by_row: Tensor
    before: Tensor


class PackedDialogues:
    """The layout of the rows: N rows in total, B dialogues, T turns in the longest.

    Args:
        lengths: number of turns of each dialogue, at least 1.
        device: device of the index tensors.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.lengths = list(lengths)
        self.device = torch.device(device)
        self._lengths = torch.tensor(self.lengths, dtype=torch.long)
        self._starts = self._lengths.cumsum(0) - self._lengths
        self._rows = sum(self.lengths)
        self._even = min(self.lengths) == max(self.lengths)
        self._windows: dict[tuple[int, bool], Tensor] = {}
        self._step_orders: dict[tuple[int, int], StepOrder] = {}

    def __len__(self) -> int:
        return self._rows

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PackedDialogues) and self.lengths == other.lengths

    __hash__ = None  # type: ignore[assignment]

    def alone(self) -> PackedDialogues:
        """Every utterance as a dialogue of its own."""
        return PackedDialogues([1] * len(self), self.device)

    @cached_property
    def dialogue(self) -> Tensor:
        """Index of the dialogue of each row ``[N]``."""
        return torch.repeat_interleave(torch.arange(len(self.lengths)), self._lengths).to(self.device)

    @cached_property
    def position(self) -> Tensor:
        """Turn of each row in its dialogue ``[N]``."""
        return torch.arange(len(self), device=self.device) - self._starts.to(self.device)[self.dialogue]

    def windows(self, rows: Tensor, size: int, *, causal: bool = False) -> Tensor:
        """``[N, D]`` to ``[N, size · D]``: each row with its neighbours, zeros beyond the ends of its dialogue.

        A causal window ends with its row, so that all neighbours are earlier turns.
        """
        if size == 1:
            return rows
        neighbours = self._windows.get((size, causal))
        if neighbours is None:
            neighbours = self._windows[size, causal] = self._neighbours(size, causal)
        beyond = functional.pad(rows, (0, 0, 0, 1))
        return beyond.index_select(0, neighbours).view(len(rows), -1)

    def _neighbours(self, size: int, causal: bool) -> Tensor:
        """Row numbers of all windows ``[N · size]``; N stands for a position beyond the ends of a dialogue."""
        after = 0 if causal else size // 2
        own = torch.arange(len(self), device=self.device)[:, None]
        shift = torch.arange(after + 1 - size, after + 1, device=self.device)[None, :]
        position = self.position[:, None] + shift
        inside = (position >= 0) & (position < self._lengths.to(self.device)[self.dialogue][:, None])
        return torch.where(inside, own + shift, len(self)).flatten()

    @cached_property
    def up_to(self) -> Tensor:
        """Causal mask ``[T, T]``: the turns (second axis) visible to each turn (first axis), itself and earlier ones."""
        longest = max(self.lengths)
        return torch.ones(longest, longest, dtype=torch.bool, device=self.device).tril()

    def any_seen(self, marks: Tensor, *, causal: bool = False) -> Tensor:
        """Whether the dialogue of each row has a marked turn (if causal: up to the row itself): ``[N]`` to ``[N]``."""
        padded = self.pad(marks)
        return self.unpad(padded.cumsum(1) > 0) if causal else padded.any(1)[self.dialogue]

    @cached_property
    def steps(self) -> list[int]:
        """Number of dialogues that have a turn at each time: the block sizes of :attr:`by_time`, non-increasing."""
        counts = torch.bincount(self._lengths, minlength=max(self.lengths) + 1).flip(0).cumsum(0).flip(0)
        return counts[1:].tolist()

    @cached_property
    def by_time(self) -> tuple[Tensor, Tensor]:
        """Rows ``[N]`` in the order of a recurrence: all first turns, all second ones, ..., longest dialogues first.

        The second tensor is the order for the backward direction: all last turns, all second to last ones, ...
        """
        rank = torch.empty_like(self._lengths)
        rank[self._lengths.argsort(descending=True, stable=True)] = torch.arange(len(self.lengths))
        dialogue, position = self.dialogue.cpu(), self.position.cpu()
        order = (position * len(self.lengths) + rank[dialogue]).argsort()
        starts = self._starts[dialogue[order]]
        mirrored = 2 * starts + self._lengths[dialogue[order]] - 1 - order
        return order.to(self.device), mirrored.to(self.device)

    def steps_of(self, directions: int, recurrences: int) -> StepOrder:
        """The order in which several recurrences compute their states together, each in one or two directions."""
        key = (directions, recurrences)
        if key not in self._step_orders:
            self._step_orders[key] = self._step_order(directions, directions * recurrences)
        return self._step_orders[key]

    def _step_order(self, directions: int, total: int) -> StepOrder:
        steps = self.steps
        sizes = [total * count for count in steps]
        rows = torch.stack([self.by_time[one % directions] + one * len(self) for one in range(total)])
        by_step = torch.cat([block.flatten() for block in rows.split(steps, dim=1)])
        states = torch.arange(len(by_step), device=self.device)
        by_row = torch.empty_like(by_step).scatter_(0, by_step, states)
        blocks = [block.view(total, -1) for block in states.split(sizes)]
        before = [block[:, :count].flatten() for block, count in zip(blocks[:-1], steps[1:], strict=True)]
        return StepOrder(steps, sizes, by_step, by_row, torch.cat([torch.zeros_like(states[: sizes[0]]), *before]))

    def pad(self, rows: Tensor) -> Tensor:
        """``[N, ...]`` to ``[B, T, ...]``, zero where a dialogue has no such turn; a view if all dialogues have the same length."""
        if self._even:
            return rows.unflatten(0, (len(self.lengths), -1))
        beyond = torch.cat([rows, rows.new_zeros(1, *rows.shape[1:])])
        return beyond.index_select(0, self._padded[1]).unflatten(0, (len(self.lengths), -1))

    def unpad(self, padded: Tensor) -> Tensor:
        """``[B, T, ...]`` to ``[N, ...]``."""
        rows = padded.flatten(0, 1)
        return rows if self._even else rows.index_select(0, self._padded[0])

    @cached_property
    def _padded(self) -> tuple[Tensor, Tensor]:
        """Index of each row in the padded form ``[N]``, and the row of each padded turn ``[B T]``, N where there is none."""
        longest = max(self.lengths)
        places = self.dialogue * longest + self.position
        rows = torch.full((len(self.lengths) * longest,), len(self), device=self.device)
        return places, rows.scatter_(0, places, torch.arange(len(self), device=self.device))
