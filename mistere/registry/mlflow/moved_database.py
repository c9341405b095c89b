"""The registry's database of an output directory that was moved or copied: its records name files by absolute paths.

MLflow has no call that changes the location of an experiment or a run, so the records are changed in the database, before MLflow
opens it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from mistere.common.paths import file_url, path_of

ARTIFACTS: Final = "store/mlflow"
"""Where the runs' files are, below the folder of the database."""
_LOCATIONS: Final = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
)
_PATHS: Final = (("model_version_tags", "value"), ("tags", "value"))
"""Columns that hold our own locations, which are never URLs."""


def follow_move(database: Path) -> None:
    """Change the records to the folder that the database lies in now, if it is an output directory.

    A database that cannot be written to is left as it is: reading the registry does not need the files.
    """
    folder = database.absolute().parent
    if not database.is_file() or not (folder / "store").is_dir():
        return
    try:
        with closing(sqlite3.connect(database)) as connection, connection:
            for before in list(_earlier_folders(connection, folder)):
                for table, column in _existing(connection, _LOCATIONS):
                    for old in {str(before), before.as_uri()}:
                        _replace(connection, table, column, old, file_url(folder))
                for table, column in _existing(connection, _PATHS):
                    _replace(connection, table, column, str(before), str(folder))
    except sqlite3.Error:
        return


def _earlier_folders(connection: sqlite3.Connection, folder: Path) -> Iterator[Path]:
    """The folders that experiments name instead of the database's own.

    A folder that still has a store is another output directory, whose runs were logged here, unless the files lie here too.
    """
    copied = (folder / ARTIFACTS).is_dir()
    if not list(_existing(connection, _LOCATIONS[:1])):
        return
    for (location,) in connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall():
        path = path_of(str(location or ""))
        if path.is_absolute() and path.as_posix().endswith(f"/{ARTIFACTS}") and path != folder / ARTIFACTS:
            before = path.parents[1]
            if copied or not (before / "store").is_dir():
                yield before


def _existing(connection: sqlite3.Connection, columns: tuple[tuple[str, str], ...]) -> Iterator[tuple[str, str]]:
    """The columns that this version of MLflow's schema has."""
    for table, column in columns:
        if connection.execute("SELECT 1 FROM pragma_table_info(?) WHERE name = ?", (table, column)).fetchone():
            yield table, column


def _replace(connection: sqlite3.Connection, table: str, column: str, old: str, new: str) -> None:
    connection.execute(
        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",  # noqa: S608  (our own names)
        (new, len(old) + 1, len(old) + 1, f"{old}/"),
    )
