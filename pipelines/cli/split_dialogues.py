"""The first dialogues of a split of a dataset, which commands measure models on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from mistere.common.errors import UsageError
from mistere.data.dataset import Utterance, read_utterances, split_of
from mistere.scoring.archive import Archive


@dataclass(frozen=True)
class SplitDialogues:
    """Reads the first dialogues of a split, anew at each call."""

    archive: Archive
    split: str
    count: int

    def __call__(self) -> Iterator[list[Utterance]]:
        return islice(self._all(), self.count)

    def _all(self) -> Iterator[list[Utterance]]:
        info = self.archive.info
        names = [name for name in self.archive.shards if split_of(name) == self.split]
        if not names:
            raise UsageError(
                f"{info.name} has no {self.split} split: no file {self.split}-*.parquet; name another one with --split."
            )
        paths = [self.archive.path(name) for name in names]
        current: list[Utterance] = []
        for one in read_utterances(paths, modalities=info.kinds, predict_roles=info.predict_roles):
            if current and one.dialogue_id != current[0].dialogue_id:
                yield sorted(current, key=lambda turn: turn.turn)
                current = []
            current.append(one)
        if current:
            yield sorted(current, key=lambda turn: turn.turn)
