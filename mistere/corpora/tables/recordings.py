"""The recordings of a table: files below a folder, or cells of the table itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from mistere.common.errors import DataError, UsageError
from mistere.common.names import path_below
from mistere.corpora.media import AudioReader, UnreadableMediaError
from mistere.corpora.tables.audio import content
from mistere.corpora.tables.rows import Row, Table


@dataclass(slots=True)
class Recordings:
    """Reads the audio of a table's rows.

    Args:
        source: the table's file, for errors.
        table: its rows.
        folder: directory that audio paths are relative to.
        lenient: whether a missing or unreadable file is an utterance without audio, and no error.
    """

    source: Path
    table: Table
    folder: Path
    lenient: bool
    reader: AudioReader = field(default_factory=AudioReader)
    _read: int = 0
    _missing: set[str] = field(default_factory=set)

    def check(self) -> None:
        """Look at every cell before anything is written.

        Raises:
            DataError: a path leads out of the folder.
            UsageError: a path is a folder or, unless lenient, a file is missing.
        """
        for row in self.table.rows:
            if row.audio is not None:
                path = self._path(row.audio, row.where)
                if path is None and not self.lenient:
                    raise UsageError(
                        f"{row.where}: there is no audio file {self.folder / row.audio}: add the file, name the folder of the "
                        "recordings with --audio, or import with --missing-audio missing."
                    )
                if path is None:
                    self._missing.add(row.where)

    def refuse_empty_column(self) -> None:
        """Refuse a table whose audio column is empty in every row.

        Raises:
            DataError: it is.
        """
        if "audio" in self.table.columns and not any(row.embedded or row.audio for row in self.table.rows):
            raise DataError(
                f"{self.source}: the audio column {self.table.names['audio']!r} is empty in every row: fill it, or leave audio out "
                "with --text-only."
            )

    def holds(self, row: Row) -> bool:
        """Whether a row has a recording, as far as is known without reading it."""
        return row.embedded or (row.audio is not None and row.where not in self._missing)

    def cells(self) -> Iterator[tuple[str, Any]]:
        """The location and the audio cell of each row of a table that holds audio itself."""
        return self.table.audio() if self.table.embedded else iter(())

    def read(self, row: Row, cells: Iterator[tuple[str, Any]]) -> bytes | None:
        """The audio of the next row.

        Args:
            row: the row.
            cells: of :meth:`cells`, at this row.

        Raises:
            DataError: the audio cannot be read; if lenient, it is noted instead.
        """
        _, value = next(cells, ("", None))
        audio = self._embedded(value, row) if row.embedded else self._of_path(row)
        self._read += audio is not None
        return audio

    def finish(self) -> None:
        """Refuse an audio column of which nothing was read.

        Raises:
            UsageError: the table names recordings, and none of their files exists.
            DataError: none of them can be read.
        """
        if not self._read and any(row.embedded or row.audio for row in self.table.rows):
            raise (DataError if self.reader.unreadable else UsageError)(
                f"{self.source}: none of the recordings in the column {self.table.names['audio']!r} can be read: name their folder "
                f"with --audio (it is {self.folder} now), or leave audio out with --text-only."
            )

    def _embedded(self, value: Any, row: Row) -> bytes | None:
        try:
            data = content(value, row.where)
            return None if data is None else self.reader.take(data, self._short(row), row.where)
        except DataError as error:
            if not self.lenient and isinstance(error, UnreadableMediaError):
                raise _with_remedy(error) from error
            if not self.lenient:
                raise
            self.reader.unreadable.append(self._short(row))
            return None

    def _short(self, row: Row) -> str:
        """The row for a note about the table: ``line 4``."""
        return row.where.removeprefix(f"{self.source}, ")

    def _of_path(self, row: Row) -> bytes | None:
        if row.audio is None:
            return None
        path = self._path(row.audio, row.where)
        if self.lenient:
            return self.reader.read(path, row.audio)
        try:
            return self.reader.load(path or self.folder / row.audio, row.audio)
        except UnreadableMediaError as error:
            raise _with_remedy(error, f"{row.where}: ") from error

    def _path(self, written: str, where: str) -> Path | None:
        """The file that a row names; None if it does not exist."""
        relative = PurePosixPath(written).as_posix()  # `./a.wav` and `a//b.wav` are common in tables
        path = path_below(self.folder, relative, f"{where}: audio", DataError, f"name a file below {self.folder}")
        if path.is_dir():
            raise UsageError(f"{where}: audio {written[:80]!r} is a folder, where a file is expected.")
        return path if path.is_file() else None


def _with_remedy(error: UnreadableMediaError, where: str = "") -> DataError:
    finding = str(error).removesuffix(".")
    return DataError(f"{where}{finding}; replace the recording, or import with --missing-audio missing.")
