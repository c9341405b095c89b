"""MELD (Poria et al., 2019), text only, from its published tables ``{train,dev,test}_sent_emo.csv``."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator
from pathlib import Path

from components.core.dataset import SPLITS, DatasetInfo, Split, Utterance, write_dataset
from components.core.errors import DataError

LABELS = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
_COLUMNS = ("Utterance", "Speaker", "Emotion", "Dialogue_ID", "Utterance_ID")

_C1_CONTROLS = re.compile("[\x80-\x9f]")
_DOUBLE_ENCODED = re.compile("[\u00c2\u00c3\u00e2][\u0080-\u00bf\u0152-\u2122]{1,2}")
_LOST_APOSTROPHE = re.compile("(?<=\\w)\ufffd(?=\\w)")


def import_meld(source: Path, directory: Path) -> dict[Split, int]:
    """Bring MELD into the dataset form.

    The published tables have lost characters on their way through encodings; those are repaired (:func:`repair`). Some
    dialogues skip utterance numbers: turns are numbered anew, in the order of ``Utterance_ID``. Dialogue numbers start
    at 0 in each split, so the split becomes part of the dialogue's id.

    Args:
        source: the folder of the three tables.
        directory: where the dataset goes; must not exist yet or be empty.

    Returns:
        Utterances per split.

    Raises:
        DataError: a table is missing or unreadable, lacks a column, or holds a value that makes no sense.
    """
    paths = {split: source / f"{split}_sent_emo.csv" for split in SPLITS}
    for path in paths.values():
        if not path.is_file():
            raise DataError(
                f"{path} is missing: MELD's folder holds train_sent_emo.csv, dev_sent_emo.csv and test_sent_emo.csv."
            )
    info = DatasetInfo(
        name="meld",
        description="MELD: dialogues from the series Friends, with one of seven emotions an utterance. Text only.",
        labels=list(LABELS),
        language="en",
        licence="GPL-3.0 (annotations); the series' transcripts belong to their owners",
        splits="MELD's own, by dialogue; the main characters speak in all three.",
        speaker_disjoint=False,
        source="https://github.com/declare-lab/MELD",
    )
    return write_dataset(directory, info, _rows(paths))


def repair(text: str) -> str:
    """Undo the damage that Windows-1252 text takes when it is read as something else.

    Handles C1 control characters (U+0092 for an apostrophe), UTF-8 read as Windows-1252 (three characters for one), and
    replacement characters inside words, where an apostrophe is by far the likeliest loss. Other replacement characters
    carry nothing and go.
    """
    text = _DOUBLE_ENCODED.sub(_decode_again, text)
    text = _C1_CONTROLS.sub(lambda match: _from_windows(match.group().encode("latin-1")), text)
    text = _LOST_APOSTROPHE.sub("\u2019", text).replace("\ufffd", "")
    return text.replace("\u00a0", " ").strip()


def _decode_again(match: re.Match[str]) -> str:
    """Read a run of characters as the UTF-8 that it was, where it was UTF-8; otherwise leave it."""
    raw = b"".join(_windows_byte(character) for character in match.group())
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return match.group()


def _windows_byte(character: str) -> bytes:
    try:
        return character.encode("cp1252")
    except UnicodeEncodeError:
        # Windows-1252 leaves five bytes undefined; decoders pass them on as C1 controls.
        return character.encode("latin-1", errors="replace")


def _from_windows(raw: bytes) -> str:
    return raw.decode("cp1252", errors="ignore")


def _undecodable(error: UnicodeError) -> tuple[str, int]:
    """A codec error handler: bytes that are no UTF-8 are Windows-1252."""
    assert isinstance(error, UnicodeDecodeError)
    return _from_windows(error.object[error.start : error.end]), error.end


codecs.register_error("windows-1252-fallback", _undecodable)


def _rows(paths: dict[Split, Path]) -> Iterator[tuple[Split, Utterance]]:
    for split, path in paths.items():
        for number, dialogue in sorted(_dialogues(path).items()):
            for turn, utterance_id in enumerate(sorted(dialogue)):
                text, speaker, emotion = dialogue[utterance_id]
                row = Utterance(f"{split}-{number:04d}", turn, emotion, text=text, speaker=speaker)
                yield split, row


def _dialogues(path: Path) -> dict[int, dict[int, tuple[str, str, str]]]:
    """One table by dialogue and utterance number: text, speaker, emotion. A table is about a megabyte."""
    dialogues: dict[int, dict[int, tuple[str, str, str]]] = {}
    with path.open(encoding="utf-8-sig", errors="windows-1252-fallback", newline="") as file:
        reader = csv.DictReader(file)
        missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise DataError(f"{path} lacks the column {missing[0]!r}, which MELD's tables have.")
        try:
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                dialogue = dialogues.setdefault(_number(row, "Dialogue_ID", where), {})
                utterance_id = _number(row, "Utterance_ID", where)
                if utterance_id in dialogue:
                    raise DataError(
                        f"{where}: this dialogue already has an utterance {utterance_id}; each number occurs once."
                    )
                dialogue[utterance_id] = _content(row, where)
        except csv.Error as error:
            raise DataError(f"{path}, line {reader.line_num}: not readable as CSV ({error}).") from error
    if not dialogues:
        raise DataError(f"{path} holds no utterances.")
    return dialogues


def _number(row: dict[str, str | None], column: str, where: str) -> int:
    value = (row[column] or "").strip()
    if not value.isdecimal():
        raise DataError(f"{where}: {column} is {value!r}, not a whole number.")
    return int(value)


def _content(row: dict[str, str | None], where: str) -> tuple[str, str, str]:
    emotion = (row["Emotion"] or "").strip().lower()
    if emotion not in LABELS:
        raise DataError(f"{where}: unknown emotion {emotion!r}; MELD has {', '.join(LABELS)}.")
    text = repair(row["Utterance"] or "")
    if not text:
        raise DataError(f"{where}: the utterance has no text.")
    return text, repair(row["Speaker"] or ""), emotion
