"""Transcripts that a model made of a dataset's audio: a parquet file of an :class:`~mistere.artifacts.manifests.UtteranceSet`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal

from mistere.artifacts.io import open_artifact
from mistere.artifacts.manifests import UtteranceSet
from mistere.artifacts.object_store import ObjectStore
from mistere.common.errors import ArtifactError
from mistere.common.parsing.documents import ParseError
from mistere.common.parsing.parquet import read_parquet
from mistere.common.splits import Split

if TYPE_CHECKING:
    from mistere.data.dataset import Utterance

TRANSCRIPTS_FILE: Final = "transcripts.parquet"
TEXT_SOURCE: Final = "text_source"
"""A column that every dataset has for slices: where the text of an utterance comes from."""
TextSource = Literal["human", "asr", "none"]
_ROWS_AT_ONCE: Final = 4096


class TranscriptWriter:
    """Writes transcripts in a stream.

    Args:
        folder: the artifact's folder.
    """

    def __init__(self, folder: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._schema = pa.schema(
            [
                ("split", pa.string()),
                ("dialogue_id", pa.string()),
                ("turn", pa.int64()),
                ("text", pa.string()),
                (TEXT_SOURCE, pa.string()),
                ("replaces", pa.bool_()),
            ]
        )
        self._writer = pq.ParquetWriter(folder / TRANSCRIPTS_FILE, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []

    def add(self, split: Split, utterance: Utterance, text: str, *, replaces: bool) -> None:
        """Add a transcript; an empty one is left out.

        Args:
            split: of the utterance.
            utterance: whose audio was transcribed.
            text: the transcript.
            replaces: whether it is read although the utterance has a text.
        """
        if text:
            self._rows.append(
                {
                    "split": split,
                    "dialogue_id": utterance.dialogue_id,
                    "turn": utterance.turn,
                    "text": text,
                    TEXT_SOURCE: "asr",
                    "replaces": replaces,
                }
            )
        if len(self._rows) >= _ROWS_AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows = []

    def __enter__(self) -> TranscriptWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        if kind is None:
            self._flush()
        self._writer.close()


class Transcripts:
    """The transcripts of some splits of a dataset, about 100 bytes of memory for each.

    Args:
        rows: text, and whether it is read although there is a human one, by split, dialogue and turn.
    """

    def __init__(self, rows: dict[tuple[str, str, int], tuple[str, bool]]) -> None:
        self._rows = rows

    @classmethod
    def open(cls, reference: UtteranceSet, splits: Sequence[Split], store: ObjectStore | None) -> Transcripts:
        """Read the transcripts of a dataset; none if it was not transcribed.

        Args:
            reference: the dataset.
            splits: the splits to read.
            store: holds the artifact with the transcripts; needed only if there are some.

        Raises:
            ArtifactError: they are missing or damaged.
        """
        if reference.transcription is None:
            return cls({})
        again = "run the pipeline again to transcribe it"
        if store is None:
            raise ArtifactError(f"the transcripts of the dataset {reference.name} are not at hand", again)
        file = open_artifact(store, UtteranceSet, reference.digest).file(TRANSCRIPTS_FILE)
        try:
            table = read_parquet(file, ["split", "dialogue_id", "turn", "text", "replaces"])
        except ParseError as error:
            raise ArtifactError(f"{file} is not readable parquet: {error}", again) from error
        return cls(
            {
                (row["split"], row["dialogue_id"], row["turn"]): (row["text"], row["replaces"])
                for row in table.to_pylist()
                if row["split"] in splits
            }
        )

    def __bool__(self) -> bool:
        return bool(self._rows)

    def merged(self, split: str, utterance: Utterance) -> Utterance:
        """The utterance with the text that is read: its own, unless it has none or the transcript replaces it."""
        text = self._text(split, utterance.dialogue_id, utterance.turn, utterance.text is not None)
        return utterance if text is None else replace(utterance, text=text)

    def source(self, split: str, dialogue_id: str, turn: int, has_text: bool) -> TextSource:
        """Where the text of an utterance comes from.

        Args:
            split: of the utterance.
            dialogue_id: its dialogue.
            turn: its turn.
            has_text: whether the dataset has a text of it.
        """
        if self._text(split, dialogue_id, turn, has_text) is not None:
            return "asr"
        return "human" if has_text else "none"

    def _text(self, split: str, dialogue_id: str, turn: int, has_text: bool) -> str | None:
        text, replaces = self._rows.get((split, dialogue_id, turn), (None, False))
        return text if replaces or not has_text else None
