"""The existing dataset of ``--base``: its rows except those of replaced dialogues, and the splits of its speakers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mistere.common.errors import DataError
from mistere.common.modalities import SPEECH
from mistere.common.parsing.parquet import open_parquet
from mistere.common.splits import SPLITS, Split
from mistere.data.dataset import (
    OPTIONAL_COLUMNS,
    REQUIRED_COLUMNS,
    DatasetInfo,
    Utterance,
    load_info,
    read_batches,
    read_utterances,
    shards_of,
)
from mistere.data.kinds import kind_of
from mistere.data.shard_modalities import shard_modalities

if TYPE_CHECKING:
    import pyarrow as pa

_COLUMNS = (*REQUIRED_COLUMNS, "speaker", *OPTIONAL_COLUMNS)


@dataclass(frozen=True, slots=True)
class Base:
    """Facts about the existing dataset, collected before its rows are streamed.

    Attributes:
        info: its ``dataset.yaml``.
        splits: the split of each dialogue; the last one if a dialogue is in several.
        torn: replaced dialogues that were in several splits and are in one now.
        speakers: the splits of each speaker in the dialogues that are kept.
        anonymous: whether an utterance that is kept has no speaker.
        replaced_columns: which of ``speaker`` and the columns of the modalities the replaced dialogues may have.
    """

    info: DatasetInfo
    splits: Mapping[str, Split]
    torn: frozenset[str]
    speakers: Mapping[str, frozenset[Split]]
    anonymous: bool
    replaced_columns: frozenset[str]
    _files: list[Path]
    _replaced: frozenset[str]
    _audio: bool

    def rows(self) -> Iterator[tuple[Split, Utterance]]:
        """Stream the rows that are kept."""
        kinds = {name: kind for name, kind in self.info.kinds.items() if self._audio or name != SPEECH}
        for split in SPLITS:
            for utterance in read_utterances(shards_of(self._files, split), modalities=kinds):
                if utterance.dialogue_id not in self._replaced:
                    yield split, utterance

    def replaced_rows(self) -> Iterator[Utterance]:
        """Stream the rows that are replaced; none are read if the dataset has none."""
        if self._replaced.isdisjoint(self.splits):
            return
        kinds = {name: kind for name, kind in self.info.kinds.items() if self._audio or name != SPEECH}
        shards = [path for split in SPLITS for path in shards_of(self._files, split)]
        yield from read_utterances(shards, modalities=kinds, dialogues=self._replaced)


def read_base(folder: Path, replaced: frozenset[str], *, audio: bool) -> Base:
    """Collect the facts about an existing dataset.

    Args:
        folder: directory of the dataset.
        replaced: dialogues that the table replaces.
        audio: whether :meth:`Base.rows` reads the audio.

    Raises:
        UsageError: the folder is not a dataset.
        DataError: a shard is unreadable, or lacks a column that a dataset has, or has one of another kind.
    """
    info = load_info(folder / "dataset.yaml")
    files = list(folder.iterdir())
    splits: dict[str, Split] = {}
    speakers: dict[str, set[Split]] = {}
    torn: set[str] = set()
    anonymous = False
    columns: set[str] = set()
    for split in SPLITS:
        for batch in read_batches(shards_of(files, split), _COLUMNS):
            check_columns(batch, folder, split)
            for row in batch.select(
                [name for name in ("dialogue_id", "speaker") if name in batch.schema.names]
            ).to_pylist():
                name = row["dialogue_id"]
                before = splits.get(name, split)
                splits[name] = split
                if name in replaced:
                    torn.update([name] if before != split else [])
                    columns |= set() if row.get("speaker") is None else {"speaker"}
                    continue
                speaker = row.get("speaker")
                anonymous = anonymous or speaker is None
                if speaker is not None:
                    speakers.setdefault(speaker, set()).add(split)
    if any(name in splits for name in replaced):
        columns |= _modality_columns((path for split in SPLITS for path in shards_of(files, split)), info.kinds)
    settled = {speaker: frozenset(values) for speaker, values in speakers.items()}
    return Base(info, splits, frozenset(torn), settled, anonymous, frozenset(columns), files, replaced, audio)


def check_columns(
    batch: pa.RecordBatch, folder: Path, split: Split, required: Sequence[str] = REQUIRED_COLUMNS
) -> None:
    """Refuse rows of a dataset that lack a column, or have other values than numbers of turns and texts in one of :data:`_COLUMNS`.

    Args:
        batch: rows of a shard.
        folder: directory of the dataset.
        split: of the shard.
        required: the columns that must be there.

    Raises:
        DataError: a column is missing or of another kind.
    """
    import pyarrow as pa

    remedy = f"correct it; `mistere data check {folder}` says what else is wrong"
    for name in required:
        if name not in batch.schema.names:
            raise DataError(f"{folder}: a shard of {split} lacks the column {name!r}: {remedy}.")
    for name in _COLUMNS:
        if name not in batch.schema.names:
            continue
        kind = batch.schema.field(name).type
        value = kind.value_type if pa.types.is_dictionary(kind) else kind
        texts = pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_null(value)
        if not (pa.types.is_integer(value) if name == "turn" else texts):
            wanted = "whole numbers" if name == "turn" else "texts"
            raise DataError(
                f"{folder}: the column {name!r} of a shard of {split} is {kind} instead of {wanted}: {remedy}."
            )


def _modality_columns(shards: Iterable[Path], kinds: Mapping[str, str]) -> set[str]:
    """The columns of the modalities of which a shard has values."""
    columns = set()
    for path in shards:
        with open_parquet(path) as file:
            present = shard_modalities(file.metadata, kinds)
        columns |= {kind_of(kind).column(modality) for modality, kind in kinds.items() if modality in present}
    return columns
