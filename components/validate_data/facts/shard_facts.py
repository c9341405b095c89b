"""The facts of one parquet shard: one streaming pass over it, cached by its digest.

Nothing here raises for damaged content: a column that is missing or of the wrong type and a recording that does not decode
are facts like any other, for the expectations to check. Decoding dominates the time, 2 to 5 ms a recording; one thread per
core decodes while the next rows are read. Facts are cached in the store by the shard's MD5, so a dataset that grew by one shard
costs one shard.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from components.validate_data.facts.audio_measurements import AudioMeasurements, measure_audio
from components.validate_data.facts.cell_facts import CellFacts, cell_batch, cells_schema, measure_cell
from components.validate_data.facts.transcript_facts import (
    Conversation,
    TranscriptFacts,
    transcript_facts,
    words_of,
)
from mistere.artifacts.manifest import canonical_digest
from mistere.artifacts.object_store import MissingObjectError, ObjectStore
from mistere.common.digests.code import source_digest
from mistere.common.errors import DataError
from mistere.common.parsing.documents import ParseError, load_json
from mistere.common.parsing.parquet import open_parquet
from mistere.data.dataset import OPTIONAL_COLUMNS, REQUIRED_COLUMNS, read_batches
from mistere.data.kinds import kind_of
from mistere.data.scripts import scripts_of

if TYPE_CHECKING:
    import pyarrow as pa

    from mistere.data.kinds.kind import Kind

EXPECTED_TYPES = {
    "dialogue_id": "text",
    "turn": "a whole number",
    "label": "text",
    "text": "text",
    "audio": "a struct with the encoded file in its field 'bytes'",
    "speaker": "text",
    **dict.fromkeys(OPTIONAL_COLUMNS, "text"),
}
_BATCH_ROWS = 32
_BATCHES_AHEAD = 3
_NAMES = ("dialogue_id", "turn", "label", "speaker", *OPTIONAL_COLUMNS)


@dataclass(frozen=True)
class ShardFacts:
    """The facts of a shard.

    Attributes:
        columns: one entry per column of the dataset form: column, found, status (``ok``, ``missing``, ``wrong type``).
        rows: one row per utterance in use: row, dialogue_id, turn, label, speaker, role, language, others (how many modalities it has beside
            speech and text), and the fields of
            :class:`~components.validate_data.facts.transcript_facts.TranscriptFacts` and :class:`~components.validate_data.facts.audio_measurements.AudioMeasurements`.
        sequences: digests of five consecutive words, with their dialogue: dialogue_id, sequence.
        words: label (empty for none), role, word, count.
        cells: one row per utterance in use and modality beside speech and text: row, dialogue_id, turn, modality, and the fields of
            :class:`~components.validate_data.facts.cell_facts.CellFacts`.
    """

    columns: list[dict[str, str]]
    rows: pa.Table
    sequences: pa.Table
    words: pa.Table
    cells: pa.Table


def facts_of_shard(
    path: Path,
    language: str,
    silence_dbfs: float,
    pool: Executor,
    wanted: frozenset[str] | None = None,
    on_rows: Callable[[int], None] | None = None,
    modalities: Mapping[str, str] | None = None,
) -> ShardFacts:
    """Read a shard once.

    Args:
        path: the file.
        language: of its transcripts, a tag such as ``en``.
        silence_dbfs: see :class:`~mistere.config.validation.ValidationSettings`.
        pool: the executor that decodes recordings.
        wanted: the dialogues in use; None for all.
        on_rows: called with the number of rows read since the last call.
        modalities: the modalities beside speech and text, and their kinds.

    Raises:
        DataError: the file is not readable parquet.
    """
    import pyarrow as pa

    usable, described = _columns_of(path, modalities or {})
    kinds = {name: kind_of(kind) for name, kind in (modalities or {}).items()}
    scripts = scripts_of(language)
    counts: Counter[tuple[str, str | None, str]] = Counter()
    batches: list[pa.RecordBatch] = []
    dialogues: list[pa.Array] = []
    sequences: list[pa.Array] = []
    cells: list[pa.RecordBatch] = []
    current, conversation = "", Conversation()

    def finish(
        names: dict[str, list[Any]],
        audio: list[Future[AudioMeasurements]],
        texts: list[str | None],
        others: dict[str, list[Future[CellFacts]]],
    ) -> None:
        nonlocal current, conversation
        facts: list[TranscriptFacts] = []
        digests: list[int] = []
        owners: list[str] = []
        columns = (names[name] for name in ("dialogue_id", "label", "role", "language"))
        for dialogue, label, role, own, text in zip(*columns, texts, strict=True):
            if dialogue != current:
                current, conversation = dialogue, Conversation()
            words = words_of(text)
            counts.update((label or "", role, word) for word in words)
            facts.append(transcript_facts(text, words, scripts if own is None else scripts_of(own)))
            added = conversation.add(words) if dialogue is not None else []
            digests += added
            owners += [dialogue] * len(added)
        measured = {name: [future.result() for future in futures] for name, futures in others.items()}
        names["others"] = [sum(own[i].present for own in measured.values()) for i in range(len(facts))]
        batches.append(_batch(names, facts, [future.result() for future in audio]))
        cells.extend(cell_batch(names, name, own) for name, own in measured.items())
        dialogues.append(pa.array(owners, pa.string()).dictionary_encode())
        sequences.append(pa.array(digests, pa.int64()))

    waiting: deque[_Pending] = deque()
    for first, batch in _numbered(path, usable):
        waiting.append(_begin(batch, first, wanted, silence_dbfs, pool, kinds))
        if len(waiting) >= _BATCHES_AHEAD:
            finish(*waiting.popleft())
        if on_rows is not None:
            on_rows(batch.num_rows)
    while waiting:
        finish(*waiting.popleft())
    return ShardFacts(
        described,
        pa.Table.from_batches(batches, rows_schema()),
        pa.table(
            {
                "dialogue_id": pa.chunked_array(dialogues, pa.dictionary(pa.int32(), pa.string())).unify_dictionaries(),
                "sequence": pa.chunked_array(sequences, pa.int64()),
            }
        ),
        pa.table(
            {
                "label": pa.array([label for label, _, _ in counts], pa.string()),
                "role": pa.array([role for _, role, _ in counts], pa.string()),
                "word": pa.array([word for _, _, word in counts], pa.string()),
                "count": pa.array(list(counts.values()), pa.int64()),
            }
        ),
        pa.Table.from_batches(cells, cells_schema()),
    )


_Pending = tuple[
    dict[str, list[Any]], "list[Future[AudioMeasurements]]", "list[str | None]", "dict[str, list[Future[CellFacts]]]"
]


def _begin(
    batch: pa.RecordBatch,
    first: int,
    wanted: frozenset[str] | None,
    silence_dbfs: float,
    pool: Executor,
    kinds: Mapping[str, Kind],
) -> _Pending:
    """Names and transcripts of a batch's rows, and the pending measurements of their recordings and further cells."""
    present = set(batch.schema.names)
    values = {
        name: batch.column(name).to_pylist() if name in present else [None] * batch.num_rows
        for name in (*_NAMES, "text")
    }
    keep = [i for i in range(batch.num_rows) if wanted is None or values["dialogue_id"][i] in wanted]
    column = batch.column("audio") if "audio" in present else None
    audio = []
    for index in keep:
        cell = (None if column is None else column[index].as_py()) or {}
        audio.append(pool.submit(measure_audio, cell.get("bytes"), cell.get("path"), silence_dbfs))
    names: dict[str, list[Any]] = {name: [values[name][i] for i in keep] for name in _NAMES}
    names["speaker"] = [(speaker or "").strip() or None for speaker in names["speaker"]]
    names["row"] = [first + i for i in keep]
    others: dict[str, list[Future[CellFacts]]] = {}
    for modality, kind in kinds.items():
        name = kind.column(modality)
        read = kind.cells(batch.column(name)) if name in present else [None] * batch.num_rows
        others[modality] = [pool.submit(measure_cell, kind, read[i]) for i in keep]
    return names, audio, [values["text"][i] for i in keep], others


def rows_schema() -> pa.Schema:
    """Columns of :attr:`ShardFacts.rows`."""
    import pyarrow as pa

    return pa.schema(
        [
            ("row", pa.int32()),
            ("dialogue_id", pa.string()),
            ("turn", pa.float64()),
            ("label", pa.string()),
            ("speaker", pa.string()),
            *((name, pa.string()) for name in OPTIONAL_COLUMNS),
            ("others", pa.int32()),
            ("text_length", pa.int32()),
            ("damaged", pa.bool_()),
            ("foreign", pa.float64()),
            ("phrase", pa.int64()),
            ("wording", pa.int64()),
            ("script", pa.string()),
            *((name, pa.bool_()) for name in ("has_audio", "embedded", "non_empty", "decodes")),
            *((name, pa.float64()) for name in ("rate", "channels", "seconds", "rms_dbfs", "quiet", "clipped")),
            ("dc_offset", pa.float64()),
            ("sound", pa.int64()),
        ]
    )


def _batch(
    names: dict[str, list[Any]], transcripts: list[TranscriptFacts], audio: list[AudioMeasurements]
) -> pa.RecordBatch:
    import pyarrow as pa

    columns: dict[str, list[Any]] = dict(names)
    for fields, facts in ((TranscriptFacts._fields, transcripts), (AudioMeasurements._fields, audio)):
        for position, name in enumerate(fields):
            columns[name] = [fact[position] for fact in facts]
    schema = rows_schema()
    return pa.RecordBatch.from_arrays(
        [pa.array(columns[field.name], field.type, from_pandas=False) for field in schema], schema=schema
    )


def _fits(column: str, kind: pa.DataType, modality: Kind | None = None) -> bool:
    """Whether an Arrow type suits a column of the dataset form."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_null(kind):
        return column not in REQUIRED_COLUMNS or column == "label"  # all turns of a shard may be context
    if column == "turn":
        return bool(types.is_integer(kind))
    return (modality or kind_of("audio" if column == "audio" else "text")).fits(kind)


def expected_types(modalities: Mapping[str, str]) -> dict[str, str]:
    """The columns of the dataset form with their types in words, those of further modalities last."""
    further = {kind_of(kind).column(name): kind_of(kind).stored_as for name, kind in modalities.items()}
    return {**EXPECTED_TYPES, **further}


def _columns_of(path: Path, modalities: Mapping[str, str]) -> tuple[list[str], list[dict[str, str]]]:
    """The usable columns of a file, and the state of each column of the dataset form."""
    try:
        with open_parquet(path) as file:
            schema = file.schema_arrow
    except ParseError as error:
        raise DataError(f"{path.name} is not readable parquet ({error}): write it again.") from error
    usable, described = [], []
    further = {kind_of(kind).column(name): kind_of(kind) for name, kind in modalities.items()}
    for column in expected_types(modalities):
        if column not in schema.names:
            if column in REQUIRED_COLUMNS:
                described.append({"column": column, "status": "missing", "found": ""})
            continue
        single = schema.names.count(column) == 1
        actual_type = str(schema.field(column).type) if single else "several columns of that name"
        fits = single and _fits(column, schema.field(column).type, further.get(column))
        described.append({"column": column, "status": "ok" if fits else "wrong type", "found": actual_type})
        if fits:
            usable.append(column)
    return usable, described


def _numbered(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    first = 0
    for batch in read_batches([path], columns, batch_rows=_BATCH_ROWS):
        yield first, batch
        first += batch.num_rows


_DIGEST_BYTES: Final = hashlib.sha256().digest_size


class FactsCache:
    """A cache of shards' facts, by MD5.

    Args:
        store: the object store.
        language: of the transcripts.
        silence_dbfs: see :class:`~mistere.config.validation.ValidationSettings`.
        modalities: the modalities beside speech and text, and their kinds.
    """

    def __init__(
        self, store: ObjectStore, language: str, silence_dbfs: float, modalities: Mapping[str, str] | None = None
    ) -> None:
        code = source_digest("components.validate_data.facts.shard_facts")
        identity = canonical_digest([code, language, silence_dbfs, dict(modalities or {})])
        self._store, self._prefix = store, f"facts/{identity}"

    def find(self, md5: str) -> ShardFacts | None:
        """The cached facts of a shard; None if they are missing or damaged."""
        import pyarrow as pa

        try:
            words, sequences, cells, rows = (self._read(md5, name) for name in ("words", "sequences", "cells", "rows"))
            return ShardFacts(load_json(rows.schema.metadata[b"columns"]), rows, sequences, words, cells)
        except (MissingObjectError, pa.ArrowException, OSError, ValueError, LookupError, TypeError):
            return None

    def add(self, md5: str, facts: ShardFacts) -> None:
        """Cache the facts of a shard; the rows are written last and mark the entry as complete."""
        rows = facts.rows.replace_schema_metadata({"columns": json.dumps(facts.columns)})
        tables = {"words": facts.words, "sequences": facts.sequences, "cells": facts.cells, "rows": rows}
        for name, table in tables.items():
            self._write(md5, name, table)

    def _read(self, md5: str, name: str) -> pa.Table:
        import pyarrow.parquet as pq

        data, _ = self._store.read(self._key(md5, name))
        digest, content = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != digest:
            raise ValueError("damaged facts")
        return pq.read_table(io.BytesIO(content))

    def _write(self, md5: str, name: str, table: pa.Table) -> None:
        import pyarrow.parquet as pq

        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        content = buffer.getvalue()
        self._store.write(self._key(md5, name), hashlib.sha256(content).digest() + content)

    def _key(self, md5: str, name: str) -> str:
        """The key of a table: its SHA-256, because checksums of parquet cover the pages alone, and then the parquet file."""
        return f"{self._prefix}/{md5}/{name}.facts"
