"""Batches of utterances of similar length, in an order that depends only on the seed and the epoch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import Dataset, Sampler

from mistere.config.encoder import EncoderConfig
from mistere.data.utterances import FeatureSpool, batches_by_length
from mistere.model.encoders.families.family import Family


class Examples(Dataset[tuple[dict[str, Any], int]]):
    """Prepared utterances with their classes.

    Args:
        spool: the utterances.
        family: the encoder's, which cuts excerpts.
        config: the encoder's section, for the seed.
        excerpt_seconds: a random excerpt of this length stands for a longer utterance; None for whole utterances. It depends on
            the seed, the epoch and the utterance only, so that a resumed training reads the same ones.
        variants: the spool holds this many of each utterance, the original first and then copies heard through a call
            (``augmentation``). Which one an epoch uses depends on the same three.
    """

    def __init__(
        self,
        spool: FeatureSpool,
        family: Family,
        config: EncoderConfig,
        excerpt_seconds: float | None = None,
        variants: int = 1,
    ) -> None:
        self._spool, self._family, self._seed, self._excerpt = spool, family, config.seed, excerpt_seconds
        self._variants, self._share = variants, config.augmentation.share
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the training loop at the start of each epoch."""
        self._epoch = epoch

    @property
    def lengths(self) -> list[int]:
        """Length of each utterance, or of its excerpt."""
        lengths = self._spool.lengths[:: self._variants]
        if self._excerpt is None:
            return lengths
        longest = self._family.excerpt_length(self._excerpt)
        return [min(length, longest) for length in lengths]

    def __len__(self) -> int:
        return len(self._spool) // self._variants

    def __getitem__(self, index: int) -> tuple[dict[str, Any], int]:
        features, label = self._spool[index * self._variants + self._variant(index)]
        if self._excerpt is not None:
            draw = random.Random(f"{self._seed}.{self._epoch}.{index}")  # noqa: S311  (the seed must reproduce the order)
            features = self._family.excerpt(features, self._excerpt, draw)
        return features, label

    def _variant(self, index: int) -> int:
        """0 for the original, or the number of a copy."""
        if self._variants == 1:
            return 0
        draw = random.Random(f"{self._seed}.{self._epoch}.{index}.call")  # noqa: S311  (the seed must reproduce the choice)
        return draw.randrange(1, self._variants) if draw.random() < self._share else 0


class LengthBatches(Sampler[int]):
    """Samples indices so that each optimiser step has utterances of similar length.

    Utterances are shuffled, cut into groups of 16 steps, sorted by length within a group, and the steps shuffled. The
    order does not depend on the micro-batch, so a step sees the same utterances in one batch or in four.
    """

    def __init__(self, lengths: Sequence[int], effective: int, seed: int) -> None:
        self._lengths, self._size, self._seed, self._epoch = lengths, effective, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the training loop at the start of each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        draw = random.Random(self._seed * 1_000_003 + self._epoch)  # noqa: S311  (the seed must reproduce the order)
        indices = list(range(len(self._lengths)))
        draw.shuffle(indices)
        batches: list[list[int]] = []
        group = 16 * self._size
        for start in range(0, len(indices), group):
            part = indices[start : start + group]
            order = batches_by_length([self._lengths[index] for index in part], self._size)
            batches += [[part[position] for position in batch] for batch in order]
        short = [batch for batch in batches if len(batch) < self._size]
        full = [batch for batch in batches if len(batch) == self._size]
        draw.shuffle(full)
        return iter([index for batch in [*full, *short] for index in batch])
