"""Write a dataset in the dataset form, shard by shard: the same rows give the same bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from mistere.common.errors import UsageError
from mistere.common.processes.partial_folders import delete_partial_folders, partial_folder
from mistere.common.splits import Split
from mistere.data.dataset import OPTIONAL_COLUMNS, ROWS_PER_GROUP, DatasetInfo, Utterance, schema
from mistere.data.kinds import kind_of

MAX_SHARD_BYTES = 256 * 1024 * 1024


class _SplitWriter:
    """Writes the shards of one split, ``<split>-00000.parquet`` and so on, each below the size limit."""

    def __init__(self, directory: Path, split: Split, max_shard_bytes: int, modalities: Mapping[str, str]) -> None:
        self._directory, self._split, self._max_bytes = directory, split, max_shard_bytes
        self._modalities = modalities
        self._kinds = {name: kind_of(kind) for name, kind in modalities.items()}
        self._pending: list[Utterance] = []
        self._writer: Any = None
        self._bytes = 0
        self._shard = 0
        self._optional: set[str] = set()

    def _size(self, utterance: Utterance) -> int:
        """About how many bytes a row takes in a shard."""
        others = (self._kinds[name].size(cell) for name, cell in utterance.others.items() if name in self._kinds)
        return len(utterance.audio or b"") + len(utterance.text or "") + 64 + sum(others)

    def _dictionaries(self) -> bool | list[str]:
        """The columns with dictionaries: all but those of lists, whose values differ; readers must assume that one repeats."""
        leaves = ("dialogue_id", "turn", "text", "audio.bytes", "audio.path", "label", "speaker", *OPTIONAL_COLUMNS)
        return list(leaves) if self._modalities else True

    def add(self, utterance: Utterance) -> None:
        self._pending.append(utterance)
        self._bytes += self._size(utterance)
        if len(self._pending) >= ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._pending:
            return
        used = {name for name in OPTIONAL_COLUMNS if any(getattr(u, name) is not None for u in self._pending)}
        if not used <= self._optional:
            self._finish_shard()  # a shard has one schema; whether later rows use a column is unknown when it begins
            self._optional |= used
            self._bytes = sum(map(self._size, self._pending))
        form = schema(self._modalities, self._optional)
        if self._writer is None:
            path = self._directory / f"{self._split}-{self._shard:05d}.parquet"
            self._writer = pq.ParquetWriter(path, form, compression="zstd", use_dictionary=self._dictionaries())
        text, audio = kind_of("text"), kind_of("audio")
        rows = [
            {
                "dialogue_id": u.dialogue_id,
                "turn": u.turn,
                "text": None if u.text is None else text.write(u.text),
                "audio": None if u.audio is None else audio.write(u.audio),
                "label": u.label,
                "speaker": u.speaker,
                **{name: getattr(u, name) for name in self._optional},
                **{
                    kind.column(name): kind.write(u.others[name])
                    for name, kind in self._kinds.items()
                    if u.others.get(name) is not None
                },
            }
            for u in self._pending
        ]
        self._writer.write_table(pa.Table.from_pylist(rows, schema=form))
        self._pending = []
        if self._bytes >= self._max_bytes * 0.9:
            self._finish_shard()

    def _finish_shard(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer, self._bytes, self._shard = None, 0, self._shard + 1

    def close(self) -> None:
        self._flush()
        self._finish_shard()


def write_dataset(
    directory: Path,
    info: DatasetInfo,
    rows: Iterable[tuple[Split, Utterance]],
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> dict[Split, int]:
    """Write a dataset in a stream; the same rows give the same bytes.

    The folder is written under a temporary name and renamed when complete, so a killed import leaves no incomplete dataset. What it
    leaves beside it is deleted by the next import to the same folder.

    Args:
        directory: directory of the new dataset; must not exist or be empty.
        info: becomes ``dataset.yaml``.
        rows: utterances with their split, dialogue by dialogue and turn by turn. Cells of modalities that ``info`` does not declare
            are left out.
        max_shard_bytes: upper bound of a shard's size; a shard is closed when it comes near it.

    Returns:
        Rows written per split.

    Raises:
        UsageError: the directory is not empty.
    """
    if directory.exists() and any(directory.iterdir()):
        raise UsageError(f"{directory} is not empty: choose a new folder, or delete it first.")
    directory.parent.mkdir(parents=True, exist_ok=True)
    delete_partial_folders(directory)
    partial = partial_folder(directory)
    partial.mkdir()
    writers: dict[Split, _SplitWriter] = {}
    counts: dict[Split, int] = {}
    try:
        for split, utterance in rows:
            writer = writers.setdefault(split, _SplitWriter(partial, split, max_shard_bytes, info.modalities))
            writer.add(utterance)
            counts[split] = counts.get(split, 0) + 1
        for writer in writers.values():
            writer.close()
        _dump_info(info, partial / "dataset.yaml")
        if directory.exists():
            directory.rmdir()
        partial.rename(directory)
    finally:
        if partial.exists():
            import shutil

            shutil.rmtree(partial)
    return counts


def _dump_info(info: DatasetInfo, path: Path) -> None:
    """Write ``dataset.yaml``."""
    text = yaml.safe_dump(info.model_dump(exclude_defaults=False), sort_keys=False, allow_unicode=True, width=120)
    path.write_text(text, encoding="utf-8")
