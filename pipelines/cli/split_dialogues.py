"""The first dialogues of a split of a dataset, which commands measure models on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from mistere.common.errors import DataError, UsageError
from mistere.common.names import shown
from mistere.data.dataset import Utterance, read_batches, read_utterances, split_of
from mistere.scoring.archive import Archive, check_position, turns_apart


@dataclass(frozen=True)
class SplitDialogues:
    """Reads the first dialogues of a split, anew at each call; one dialogue is in memory at a time.

    Raises:
        UsageError: there is no such split.
        DataError: a row of it does not say of which dialogue and turn it is, the rows of a dialogue are apart, or a turn has two rows.
    """

    archive: Archive
    split: str
    count: int

    def __post_init__(self) -> None:
        dialogue, turns, seen = "", set[int](), set[str]()
        for shard in self._shards:
            self.archive.facts(shard)
            for batch in read_batches([self.archive.path(shard)], ["dialogue_id", "turn"]):
                rows = zip(batch.column("dialogue_id").to_pylist(), batch.column("turn").to_pylist(), strict=True)
                for name, turn in rows:
                    check_position(shard, name, turn)
                    if name != dialogue:
                        if name in seen:
                            raise turns_apart(shard, name)
                        seen.add(name)
                        dialogue, turns = name, set()
                    if turn in turns:
                        raise DataError(
                            f"{shard}: dialogue {shown(name)} has turn {turn} twice: number the turns from 0 on."
                        )
                    turns.add(turn)

    def __call__(self) -> Iterator[list[Utterance]]:
        return islice(self._all(), self.count)

    @property
    def _shards(self) -> list[str]:
        names = [name for name in self.archive.shards if split_of(name) == self.split]
        if not names:
            raise UsageError(
                f"{self.archive.info.name} has no {self.split} split: no file {self.split}-*.parquet; name another one with --split."
            )
        return names

    def _all(self) -> Iterator[list[Utterance]]:
        info = self.archive.info
        paths = [self.archive.path(name) for name in self._shards]
        current: list[Utterance] = []
        for one in read_utterances(paths, modalities=info.kinds, predict_roles=info.predict_roles):
            if current and one.dialogue_id != current[0].dialogue_id:
                yield sorted(current, key=lambda turn: turn.turn)
                current = []
            current.append(one)
        if current:
            yield sorted(current, key=lambda turn: turn.turn)
