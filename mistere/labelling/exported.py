"""The folder of an export: tasks, labelling interface, recordings, the table of the dialogues, and ``export.json``, written last."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from mistere.common.digests.files import digest_of
from mistere.common.errors import DataError, UsageError
from mistere.common.parsing.documents import ParseError, read_json
from mistere.data.dataset import Utterance, read_batches, read_utterances

MANIFEST: Final = "export.json"
TASKS: Final = "tasks.json"
INTERFACE: Final = "interface.xml"
TABLE: Final = "dialogues.parquet"
AUDIO: Final = "audio"


class ExportManifest(BaseModel):
    """``export.json``.

    Attributes:
        schema_version: of this form.
        labels: the choices.
        seed: of the choice of dialogues.
        weights: of the figures.
        random_share: part that was drawn by chance.
        bundles: digests of the models that answered.
        dialogues: name of each dialogue → the turns that are labelled.
        table: SHA-256 of :data:`TABLE`.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    labels: list[str]
    seed: int
    weights: dict[str, float]
    random_share: float
    bundles: list[str]
    dialogues: dict[str, list[int]]
    table: str


@dataclass(frozen=True)
class Export:
    """An export that was read.

    Attributes:
        folder: of it.
        manifest: its ``export.json``.
    """

    folder: Path
    manifest: ExportManifest

    def drawn_by_chance(self) -> set[str]:
        """The names of the dialogues that were drawn by chance."""
        names: set[str] = set()
        for batch in read_batches([self.folder / TABLE], ["dialogue_id", "reason"]):
            rows = batch.to_pylist()
            names.update(row["dialogue_id"] for row in rows if row.get("reason") == "random")
        return names

    def dialogues(self) -> Iterator[list[Utterance]]:
        """The dialogues, turn by turn, without labels; one is in memory."""
        current: list[Utterance] = []
        for utterance in read_utterances([self.folder / TABLE]):
            if current and utterance.dialogue_id != current[0].dialogue_id:
                yield current
                current = []
            current.append(utterance)
        if current:
            yield current


def open_export(folder: Path) -> Export:
    """Open the folder of an export.

    Raises:
        UsageError: it is no export.
        DataError: it is damaged or was changed.
    """
    manifest = read_manifest(folder)
    table = folder / TABLE
    if not table.is_file() or digest_of(table) != manifest.table:
        raise DataError(f"{table} is missing or was changed since the export: restore it, or export again.")
    return Export(folder, manifest)


def read_manifest(folder: Path) -> ExportManifest:
    """Read ``export.json``.

    Raises:
        UsageError: the folder is no export.
        DataError: the file is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UsageError(f"{path} is missing: name a folder that `mistere label export` made.")
    try:
        return ExportManifest.model_validate(read_json(path))
    except (ParseError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise DataError(f"{path} is damaged ({reason}): export again.") from error
