"""MELD (Poria et al., 2019): its tables ``{train,dev,test}_sent_emo.csv``, and the media folders of ``MELD.Raw``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from mistere.common.counting import counted, plural
from mistere.common.errors import DataError, UsageError
from mistere.common.splits import SPLITS, Split
from mistere.corpora.delimited import read_table
from mistere.corpora.import_report import ImportReport, write_counted
from mistere.corpora.importer import Option, TextOnly, importer
from mistere.corpora.media import AudioReader
from mistere.corpora.published_counts import differences
from mistere.data.dataset import DatasetInfo, Utterance
from mistere.data.text_repair import repair

LABELS = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
_COLUMNS = ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID")
_MEDIA_FOLDERS: dict[Split, str] = {
    "train": "train_splits",
    "dev": "dev_splits_complete",
    "test": "output_repeated_splits_test",
}
_MEDIA_NAME = re.compile(r"(final_videos_test)?dia(\d+)_utt(\d+)\.(wav|mp4)")


@dataclass(frozen=True, slots=True)
class _Row:
    """The fields of a table's row that are imported."""

    text: str
    speaker: str
    emotion: str
    repaired: bool


_Dialogues = dict[int, dict[int, _Row]]
_Media = dict[tuple[int, int], Path]


@importer("meld", help="MELD: its tables and, if present, the clips of the utterances.")
def import_meld(
    source: Path,
    directory: Path,
    *,
    media: Annotated[
        Path | None, Option("Directory of the media folders; by default the one that holds the tables.")
    ] = None,
    text_only: TextOnly = False,
) -> ImportReport:
    """Convert MELD to the dataset form.

    The published tables hold characters damaged by wrong encodings, which are repaired
    (:func:`~mistere.data.text_repair.repair`). Some dialogues skip utterance numbers: turns are renumbered in the order of
    ``Utterance_ID``. Dialogue numbers start at 0 in each split, so the split becomes part of the dialogue's id.

    Audio is read from ``dia<D>_utt<U>.wav`` or ``.mp4`` in ``train_splits``, ``dev_splits_complete`` and
    ``output_repeated_splits_test``. The last one holds some clips twice; those named ``final_videos_testdia…`` are used,
    because the others were cut wrongly. Without these folders only text is imported.

    Args:
        source: the folder of the three tables, each in it or in a subfolder named after its split.
        directory: directory of the new dataset; must not exist or be empty.
        media: the folder of the media folders, if they are not in ``source`` or in its subfolders named after the splits.
        text_only: leave the audio out.

    Raises:
        DataError: a table is unreadable, lacks a column, or holds an invalid value.
        UsageError: a table is missing, or ``media`` holds none of the media folders.
        MissingPackageError: there are videos, and ffmpeg is not installed.
    """
    tables = {split: _dialogues(_table(source, split)) for split in SPLITS}
    files = {} if text_only else _media(media or source)
    if media is not None and not files and not text_only:
        raise UsageError(f"{media} holds none of MELD's media folders: {', '.join(_MEDIA_FOLDERS.values())}.")
    info = DatasetInfo(
        name="meld",
        description="MELD: dialogues from the series Friends, with one of seven emotions an utterance."
        + ("" if files else " Text only."),
        labels=list(LABELS),
        language="en",
        licence="GPL-3.0 (annotations); the series' transcripts and recordings belong to their owners",
        splits="MELD's own, by dialogue; the main characters speak in all three.",
        speaker_disjoint=False,
        source="https://github.com/declare-lab/MELD",
    )
    reader = AudioReader()
    report = write_counted(directory, info, _rows(tables, files, reader))
    notes = [*differences("meld", report.counts, report.dialogues), *_notes(tables)]
    if files:
        notes += reader.notes()
    elif not text_only:
        notes.append(f"{media or source} holds no media folder ({', '.join(_MEDIA_FOLDERS.values())}): text only.")
    return replace(report, notes=notes)


def _notes(tables: dict[Split, _Dialogues]) -> list[str]:
    dialogues = [dialogue for table in tables.values() for dialogue in table.values()]
    gaps = sum(sorted(dialogue) != list(range(len(dialogue))) for dialogue in dialogues)
    repaired = sum(row.repaired for dialogue in dialogues for row in dialogue.values())
    notes = []
    if gaps:
        notes.append(
            f"{counted(gaps, 'dialogue')} {plural(gaps, 'skips', 'skip')} utterance numbers: the turns are numbered again."
        )
    if repaired:
        notes.append(
            f"{counted(repaired, 'text')} had characters damaged by a wrong encoding: {plural(repaired, 'it is', 'they are')} repaired."
        )
    return notes


def _rows(
    tables: dict[Split, _Dialogues], files: dict[Split, _Media], reader: AudioReader
) -> Iterator[tuple[Split, Utterance]]:
    for split, table in tables.items():
        for number, dialogue in sorted(table.items()):
            for turn, (utterance_id, row) in enumerate(sorted(dialogue.items())):
                audio = None
                if files:
                    path = files.get(split, {}).get((number, utterance_id))
                    audio = reader.read(path, f"{split} dia{number}_utt{utterance_id}")
                utterance = Utterance(f"{split}-{number:04d}", turn, row.emotion, row.text, audio, row.speaker)
                yield split, utterance


def _table(source: Path, split: Split) -> Path:
    name = f"{split}_sent_emo.csv"
    for path in (source / name, source / split / name):
        if path.is_file():
            return path
    raise UsageError(
        f"{source / name} is missing: MELD's folder holds train_sent_emo.csv, dev_sent_emo.csv and test_sent_emo.csv."
    )


def _media(folder: Path) -> dict[Split, _Media]:
    """The clips by split, dialogue and utterance; without the splits that have no folder."""
    clips: dict[Split, _Media] = {}
    for split, name in _MEDIA_FOLDERS.items():
        for candidate in (folder / name, folder / split / name):
            if candidate.is_dir():
                clips[split] = _clips(candidate)
                break
    return clips


def _clips(folder: Path) -> _Media:
    """The clips of a folder; prefers corrected clips, then ``.wav`` files, which do not need ffmpeg."""
    ranked: dict[tuple[int, int], tuple[tuple[bool, bool], Path]] = {}
    for path in folder.iterdir():
        match = _MEDIA_NAME.fullmatch(path.name)
        if match:
            key, rank = (int(match.group(2)), int(match.group(3))), (bool(match.group(1)), match.group(4) == "wav")
            ranked[key] = max(ranked.get(key, (rank, path)), (rank, path))
    return {key: path for key, (_, path) in ranked.items()}


def _dialogues(path: Path) -> _Dialogues:
    """One table by dialogue and utterance number; held in memory, since a table is about a megabyte."""
    dialogues: _Dialogues = {}
    for line, row in read_table(path, _COLUMNS):
        where = f"{path}, line {line}"
        dialogue = dialogues.setdefault(_number(row, "Dialogue_ID", where), {})
        utterance_id = _number(row, "Utterance_ID", where)
        if utterance_id in dialogue:
            raise DataError(f"{where}: this dialogue already has an utterance {utterance_id}; each number occurs once.")
        dialogue[utterance_id] = _content(row, where)
    if not dialogues:
        raise DataError(f"{path} holds no utterances: unpack MELD's annotations again.")
    return dialogues


def _number(row: dict[str, str], column: str, where: str) -> int:
    value = row[column].strip()
    if not (value.isascii() and value.isdecimal() and len(value) < 10):
        raise DataError(f"{where}: {column} is {value[:40]!r}, not a whole number.")
    return int(value)


def _content(row: dict[str, str], where: str) -> _Row:
    emotion = row["Emotion"].strip().lower()
    if emotion not in LABELS:
        raise DataError(f"{where}: unknown emotion {emotion[:40]!r}; MELD has {', '.join(LABELS)}.")
    written = row["Utterance"]
    text = repair(written)
    if not text:
        raise DataError(f"{where}: the utterance has no text: unpack MELD's annotations again.")
    plain = written.replace("\u00a0", " ").strip()
    return _Row(text, repair(row["Speaker"]), emotion, repaired=text != plain)
