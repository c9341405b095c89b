"""Reading the utterances that a reference names, split by split, and keeping prepared features at hand on disk."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.core.dataset import SPLITS, Split, Utterance, read_utterances
from components.core.manifests import UtteranceSet
from components.core.remote_data import selected_dialogues, shard_paths


class UtteranceReader:
    """Streams an :class:`UtteranceSet`; fetches only the shards of the splits it is asked for.

    Args:
        reference: the dataset.
        splits: which splits will be read. A limit on dialogues is shared among all splits, so it needs all of them.
    """

    def __init__(self, reference: UtteranceSet, splits: Sequence[Split] = SPLITS) -> None:
        self.reference = reference
        self._paths = shard_paths(reference, SPLITS if reference.max_dialogues else splits)
        self._selection = selected_dialogues(self._paths, reference.max_dialogues)

    def stream(self, split: Split, *, audio: bool = True, text: bool = True) -> Iterator[Utterance]:
        """The split's utterances in file order, with only the modalities that are wanted."""
        return read_utterances(self._paths[split], audio=audio, text=text, dialogues=self._selection[split])

    def dialogues(self, split: Split, *, audio: bool = True, text: bool = True) -> Iterator[list[Utterance]]:
        """The split's dialogues, turn by turn; memory is that of one dialogue."""
        current: list[Utterance] = []
        for utterance in self.stream(split, audio=audio, text=text):
            if current and utterance.dialogue_id != current[0].dialogue_id:
                yield sorted(current, key=lambda u: u.turn)
                current = []
            current.append(utterance)
        if current:
            yield sorted(current, key=lambda u: u.turn)


class FeatureSpool:
    """Features of many utterances in one scratch file: prepared once, read at random, memory stays flat."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("w+b")
        self._spans: list[tuple[int, int]] = []
        self.lengths: list[int] = []
        self.labels: list[int] = []

    def append(self, features: Mapping[str, Any], label: int) -> None:
        """Add one utterance's features (arrays by name, with ``length``)."""
        buffer = io.BytesIO()
        np.savez(buffer, **{name: np.asarray(value) for name, value in features.items()})  # type: ignore[arg-type]
        start = self._file.seek(0, io.SEEK_END)
        self._file.write(buffer.getvalue())
        self._spans.append((start, buffer.tell()))
        self.lengths.append(int(features["length"]))
        self.labels.append(label)

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: int) -> tuple[dict[str, Any], int]:
        start, size = self._spans[index]
        self._file.seek(start)
        with np.load(io.BytesIO(self._file.read(size)), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}, self.labels[index]

    def close(self) -> None:
        """Close and delete the file."""
        self._file.close()
        self._path.unlink(missing_ok=True)


def batches_by_length(
    lengths: Sequence[int], size: int, order: Callable[[list[int]], None] | None = None
) -> list[list[int]]:
    """Indices in batches of similar length, longest batch first; ``order`` may shuffle equals beforehand."""
    indices = list(range(len(lengths)))
    if order is not None:
        order(indices)
    indices.sort(key=lambda index: -lengths[index])
    return [indices[start : start + size] for start in range(0, len(indices), size)]
