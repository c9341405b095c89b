"""The existing dataset of ``--base``: its rows except those of replaced dialogues, and the splits of its speakers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mistere.common.errors import DataError
from mistere.common.modalities import SPEECH
from mistere.common.parsing.parquet import open_parquet
from mistere.common.splits import SPLITS, Split
from mistere.data.dataset import (
    DatasetInfo,
    Utterance,
    load_info,
    read_batches,
    read_utterances,
    shards_of,
)
from mistere.data.kinds import kind_of
from mistere.data.shard_modalities import shard_modalities


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


def read_base(folder: Path, replaced: frozenset[str], *, audio: bool) -> Base:
    """Collect the facts about an existing dataset.

    Args:
        folder: directory of the dataset.
        replaced: dialogues that the table replaces.
        audio: whether :meth:`Base.rows` reads the audio.

    Raises:
        UsageError: the folder is not a dataset.
        DataError: a shard is unreadable.
    """
    info = load_info(folder / "dataset.yaml")
    files = list(folder.iterdir())
    splits: dict[str, Split] = {}
    speakers: dict[str, set[Split]] = {}
    torn: set[str] = set()
    anonymous = False
    columns: set[str] = set()
    for split in SPLITS:
        for batch in read_batches(shards_of(files, split), ["dialogue_id", "speaker"]):
            if "dialogue_id" not in batch.schema.names:
                raise DataError(f"{folder}: a shard of {split} lacks the column 'dialogue_id'.")
            for row in batch.to_pylist():
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


def _modality_columns(shards: Iterable[Path], kinds: Mapping[str, str]) -> set[str]:
    """The columns of the modalities of which a shard has values."""
    columns = set()
    for path in shards:
        with open_parquet(path) as file:
            present = shard_modalities(file.metadata, kinds)
        columns |= {kind_of(kind).column(modality) for modality, kind in kinds.items() if modality in present}
    return columns
