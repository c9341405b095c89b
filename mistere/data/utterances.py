"""Read the utterances of a dataset by reference, split by split, and spool prepared features to disk."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mistere.artifacts.manifests import UtteranceSet
from mistere.artifacts.object_store import ObjectStore
from mistere.common.errors import UsageError
from mistere.common.modalities import TEXT
from mistere.common.parsing.documents import read_json
from mistere.common.splits import SPLITS, Split
from mistere.data.dataset import Utterance, read_batches, read_utterances
from mistere.data.dvc_remote import selected_dialogues, shard_paths
from mistere.data.roles import labels_of_roles
from mistere.data.text_repair import is_blank
from mistere.data.transcripts import TEXT_SOURCE, Transcripts

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class RowRange:
    """Consecutive rows of one parquet shard: the unit of work of the extraction."""

    split: Split
    shard: str
    start: int
    stop: int


def row_ranges(reference: UtteranceSet, rows: int) -> list[RowRange]:
    """Cut a dataset into ranges of ``rows`` rows (fewer at the end of a shard), in file order.

    The ranges depend on the dataset alone, so all tasks agree on them.
    """
    return [
        RowRange(split, shard.name, start, min(start + rows, shard.rows))
        for split in SPLITS
        for shard in sorted((s for s in reference.shards if s.split == split), key=lambda s: s.name)
        for start in range(0, shard.rows, rows)
    ]


class UtteranceReader:
    """Streams an :class:`UtteranceSet` with its transcripts; fetches only the shards that it needs.

    Args:
        reference: the dataset.
        splits: the splits to read. ``max_dialogues`` is shared among all splits, so with it all of them are fetched.
        shards: fetch only shards of these names; None fetches all.
        store: holds the transcripts of a dataset that was transcribed.
    """

    def __init__(
        self,
        reference: UtteranceSet,
        splits: Sequence[Split] = SPLITS,
        shards: frozenset[str] | None = None,
        store: ObjectStore | None = None,
    ) -> None:
        self.reference = reference
        limited = reference.max_dialogues is not None
        self._paths = shard_paths(reference, SPLITS if limited else splits, None if limited else shards)
        files = {split: list(paths.values()) for split, paths in self._paths.items()}
        self._selection = selected_dialogues(files, reference.max_dialogues)
        self._excluded = {split: frozenset(reference.quarantined.get(split, ())) for split in SPLITS}
        self._transcripts = Transcripts.open(reference, splits, store)

    def stream(self, split: Split, modalities: Collection[str] | None = None) -> Iterator[Utterance]:
        """The split's utterances in file order.

        Args:
            split: the split.
            modalities: names of the modalities to read; None for all that the dataset has.
        """
        kinds = self._kinds(modalities)
        utterances = read_utterances(
            list(self._paths[split].values()),
            modalities=kinds,
            dialogues=self._selection[split],
            without=self._excluded[split],
            predict_roles=self.reference.predict_roles,
        )
        return self._merged(split, utterances, kinds)

    def _merged(
        self, split: Split, utterances: Iterator[Utterance], modalities: Collection[str]
    ) -> Iterator[Utterance]:
        """The utterances with the transcripts of those that lack a text."""
        if TEXT not in modalities or not self._transcripts:
            return utterances
        return (self._transcripts.merged(split, utterance) for utterance in utterances)

    def _kinds(self, modalities: Collection[str] | None) -> dict[str, str]:
        """The kinds of the chosen modalities that the dataset declares."""
        kinds = self.reference.kinds
        return {name: kind for name, kind in kinds.items() if modalities is None or name in modalities}

    def dialogues(self, split: Split, modalities: Collection[str] | None = None) -> Iterator[list[Utterance]]:
        """The split's dialogues, turn by turn, with modalities as in :meth:`stream`; at most one dialogue is in memory."""
        current: list[Utterance] = []
        for utterance in self.stream(split, modalities):
            if current and utterance.dialogue_id != current[0].dialogue_id:
                yield sorted(current, key=lambda u: u.turn)
                current = []
            current.append(utterance)
        if current:
            yield sorted(current, key=lambda u: u.turn)

    def has_column(self, split: Split, name: str) -> bool:
        """Whether a shard of a split has a column."""
        shards = list(self._paths[split].values())
        return any(name in batch.schema.names for batch in read_batches(shards, [name], rows=(0, 1)))

    def columns(self, split: Split, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Any columns of the split's utterances, in file order; ``text_source`` says where the text comes from.

        Raises:
            UsageError: no shard of the split has such a column.
        """
        chosen, missing = self._selection[split], set(names)
        wanted = list(names)
        if with_source := TEXT_SOURCE in missing:
            missing.remove(TEXT_SOURCE)
            wanted = list(
                dict.fromkeys([*(name for name in names if name != TEXT_SOURCE), "dialogue_id", "turn", "text"])
            )
        for batch in read_batches(list(self._paths[split].values()), wanted):
            missing -= set(batch.schema.names)
            for row in batch.to_pylist():
                name = row["dialogue_id"]
                if name not in self._excluded[split] and (chosen is None or name in chosen):
                    if with_source:
                        has_text = not is_blank(row.get("text") or "")
                        row[TEXT_SOURCE] = self._transcripts.source(split, name, row["turn"], has_text)
                    yield row
        if missing:
            raise UsageError(
                f"the {split} split has no column {sorted(missing)[0]!r}: name an existing column, or remove it from the setting."
            )

    def read(self, rows: RowRange, modalities: Collection[str] | None = None) -> list[Utterance]:
        """The utterances of one range, with modalities as in :meth:`stream`; skips row groups outside it."""
        kinds = self._kinds(modalities)
        utterances = read_utterances(
            [self._paths[rows.split][rows.shard]],
            modalities=kinds,
            dialogues=self._selection[rows.split],
            without=self._excluded[rows.split],
            rows=(rows.start, rows.stop),
            predict_roles=self.reference.predict_roles,
        )
        return list(self._merged(rows.split, utterances, kinds))

    def table(self, rows: RowRange) -> pa.Table:
        """Split, dialogue, turn and label of one range's utterances, without text and audio; the label of a context turn is null."""
        import pyarrow as pa
        import pyarrow.compute as pc

        columns = ["dialogue_id", "turn", "label"]
        shard = [self._paths[rows.split][rows.shard]]
        batches = read_batches(shard, [*columns, "role"], rows=(rows.start, rows.stop))
        table = labels_of_roles(pa.Table.from_batches(batches), self.reference.predict_roles).select(columns)
        chosen = self._selection[rows.split]
        if chosen is not None:
            table = table.filter(pc.is_in(table["dialogue_id"], pa.array(sorted(chosen), pa.string())))
        if self._excluded[rows.split]:
            excluded = pa.array(sorted(self._excluded[rows.split]), pa.string())
            table = table.filter(pc.invert(pc.is_in(table["dialogue_id"], excluded)))
        split = pa.repeat(pa.scalar(rows.split), len(table))
        kinds = {"turn": pa.int64()}
        cast = [table[name].cast(kinds.get(name, pa.string())) for name in columns]
        return pa.Table.from_arrays([split, *cast], names=["split", *columns])


class PreviousTurns:
    """The transcripts of the turns before an utterance.

    Args:
        reader: the dataset.
        turns: number of turns; with 0 nothing is read.
        splits: the splits to read. Their transcripts are held in memory, about 100 bytes for each turn.
    """

    def __init__(self, reader: UtteranceReader, turns: int, splits: Sequence[Split]) -> None:
        self._turns = turns
        self._texts: dict[tuple[str, str, int], str] = {}
        for split in splits if turns else ():
            for utterance in reader.stream(split, (TEXT,)):
                if utterance.text:
                    self._texts[split, utterance.dialogue_id, utterance.turn] = utterance.text

    def of(self, split: str, utterance: Utterance) -> tuple[str, ...]:
        """The turns before an utterance, oldest first; a turn without a transcript is left out."""
        before = range(max(0, utterance.turn - self._turns), utterance.turn)
        texts = (self._texts.get((split, utterance.dialogue_id, turn)) for turn in before)
        return tuple(text for text in texts if text)


def undecodable(split: str, utterance: Utterance, modality: str, error: Exception) -> str:
    """The error message for an utterance whose cell of a modality cannot be read."""
    reason = str(error).rstrip(".")
    return (
        f"{split} dialogue {utterance.dialogue_id}, turn {utterance.turn}: {reason[0].lower()}{reason[1:]}: fix it, or set "
        f"{modality}.undecodable=missing to continue without it."
    )


class FeatureSpool:
    """Features of many utterances in one scratch file, prepared once and read in any order with constant memory.

    The folder holds the features one after another and an index, which :meth:`close` writes, so that several training processes
    can read what one of them prepared.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / _SPOOLED).open("w+b")
        self._spans: list[tuple[int, int]] = []
        self.lengths: list[int] = []
        self.labels: list[int] = []

    @classmethod
    def open(cls, folder: Path) -> FeatureSpool:
        """Open a spool that has been written and closed."""
        spool = cls.__new__(cls)
        index = read_json(folder / _INDEX)
        spool._folder, spool._file = folder, (folder / _SPOOLED).open("r+b")
        spool._spans = [(start, size) for start, size in index["spans"]]
        spool.lengths, spool.labels = index["lengths"], index["labels"]
        return spool

    def append(self, features: Mapping[str, Any], label: int) -> None:
        """Add one utterance's features (arrays by name, with ``length``)."""
        from safetensors.numpy import save

        data = save({name: np.ascontiguousarray(value) for name, value in features.items()})
        start = self._file.seek(0, io.SEEK_END)
        self._file.write(data)
        self._spans.append((start, len(data)))
        self.lengths.append(int(features["length"]))
        self.labels.append(label)

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: int) -> tuple[dict[str, Any], int]:
        from safetensors.numpy import load

        start, size = self._spans[index]
        self._file.seek(start)
        return load(self._file.read(size)), self.labels[index]

    def close(self) -> None:
        """Write the index and close the file."""
        if not self._file.closed:
            self._file.close()
            index = {"spans": self._spans, "lengths": self.lengths, "labels": self.labels}
            (self._folder / _INDEX).write_text(json.dumps(index), encoding="utf-8")

    def __enter__(self) -> FeatureSpool:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


_SPOOLED, _INDEX = "features.bin", "index.json"


def batches_by_length(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Indices in batches of ``size`` of similar length, longest batch first."""
    indices = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def batches_of_one_shape(lengths: Sequence[int], positions: int) -> list[tuple[list[int], int]]:
    """Indices in batches of equal length, longest first, and the number of rows of each batch, which may have to be filled up.

    The number of rows depends on the length alone: the lowest power of two with at least ``positions`` positions.
    """
    by_length: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        by_length.setdefault(length, []).append(index)
    batches = []
    for length, indices in sorted(by_length.items(), reverse=True):
        rows = 1
        while rows * max(1, length) < positions:
            rows *= 2
        batches += [(indices[start : start + rows], rows) for start in range(0, len(indices), rows)]
    return batches


def batches_within(lengths: Sequence[int], budget: float) -> list[list[int]]:
    """Indices in batches of similar length, longest first, with a padded size of at most ``budget`` each.

    An utterance longer than the budget gets a batch of its own.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
