"""Remove a dialogue from the folder of an export, which is a copy that deletion in the store does not reach."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from mistere.common.digests.files import digest_of
from mistere.common.errors import DataError
from mistere.common.parsing.documents import ParseError, read_json
from mistere.common.processes.partial_folders import delete_partial_folders
from mistere.data.dataset import read_batches
from mistere.labelling.exported import (
    AUDIO,
    MANIFEST,
    TABLE,
    TASKS,
    ExportManifest,
    read_manifest,
)

_RECORDING: Final = re.compile(r"[0-9a-f]{64}\.\w+")


def remove_dialogue(folder: Path, name: str) -> bool:
    """Remove a dialogue from tasks, table and recordings; returns whether the export had it.

    The manifest forgets it last, so a removal that was interrupted is completed by the next one. What killed exports to the same folder
    left is deleted, too.

    Args:
        folder: of the export.
        name: of the dialogue.

    Raises:
        UsageError: the folder is no export.
        DataError: it is damaged.
    """
    manifest = read_manifest(folder)
    delete_partial_folders(folder)
    if name not in manifest.dialogues:
        return False
    tasks = _tasks(folder / TASKS)
    kept = [task for task in tasks if task["data"]["dialogue_id"] != name]
    _replace(folder / TASKS, json.dumps(kept, ensure_ascii=False, indent=1))
    used = _recordings(kept)
    audio = folder / AUDIO
    for file in list(audio.iterdir()) if audio.is_dir() else ():
        if _RECORDING.fullmatch(file.name) and file.name not in used:
            file.unlink(missing_ok=True)
    _filter_table(folder / TABLE, name)
    dialogues = {each: turns for each, turns in manifest.dialogues.items() if each != name}
    table = digest_of(folder / TABLE)
    changed = ExportManifest(**{**manifest.model_dump(), "dialogues": dialogues, "table": table})
    _replace(folder / MANIFEST, changed.model_dump_json(indent=1))
    return True


def _tasks(path: Path) -> list[Any]:
    try:
        tasks = read_json(path)
        _recordings(tasks)
        assert isinstance(tasks, list)
        return tasks
    except (ParseError, OSError, LookupError, TypeError, AttributeError, AssertionError) as error:
        raise DataError(f"{path} is missing or damaged: delete the whole export.") from error


def _recordings(tasks: list[Any]) -> set[str]:
    """The file names of the recordings of tasks."""
    return {
        str(address).rpartition("/")[2]
        for task in tasks
        for utterance in task["data"]["utterances"]
        for address in utterance["recordings"]
    }


def _filter_table(path: Path, name: str) -> None:
    """Write the table again without the rows of a dialogue."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    partial = path.with_name(f".{path.name}.partial")
    try:
        with pq.ParquetWriter(partial, pq.read_schema(path), compression="zstd") as writer:
            for batch in read_batches([path]):
                others = batch.filter(pc.not_equal(batch.column("dialogue_id"), name))
                if len(others):
                    writer.write_table(pa.Table.from_batches([others], writer.schema))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _replace(path: Path, content: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(content, encoding="utf-8")
    partial.replace(path)
