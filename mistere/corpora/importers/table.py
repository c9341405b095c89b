"""Import a table (CSV, TSV, JSONL or parquet) as a new dataset, or into a copy of an existing one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import ValidationError

from mistere.common.errors import DataError, UsageError
from mistere.common.names import path_below
from mistere.common.splits import SPLITS, Split
from mistere.corpora.import_report import ImportReport, write_counted
from mistere.corpora.importer import Option, TextOnly, importer
from mistere.corpora.media import AudioReader, UnreadableMediaError
from mistere.corpora.table_base import Base, read_base
from mistere.corpora.table_rows import Row, Table, read_embedded, read_rows
from mistere.corpora.table_splits import Assignment, assign, check_shares
from mistere.data.dataset import DatasetInfo, Utterance

_Dialogues = dict[str, list[Row]]


@dataclass(slots=True)
class _AudioSource:
    """Reads the audio of the rows."""

    source: Path
    table: Table
    folder: Path
    lenient: bool
    reader: AudioReader = field(default_factory=AudioReader)

    def check(self) -> None:
        """Refuse paths outside the folder and, unless lenient, to missing files, before anything is written."""
        for row in self.table.rows:
            if row.audio is not None:
                path = self._path(row.audio, row.where)
                if path is None and not self.lenient:
                    raise DataError(
                        f"{row.where}: there is no audio file {self.folder / row.audio}: add the file, or import "
                        "with --missing-audio missing."
                    )

    def of_path(self, row: Row) -> bytes | None:
        """The audio of a row that names a file."""
        if row.audio is None:
            return None
        path = self._path(row.audio, row.where)
        if self.lenient:
            return self.reader.read(path, row.audio)
        try:
            return self.reader.load(path or self.folder / row.audio, row.audio)
        except UnreadableMediaError as error:
            raise DataError(f"{row.where}: {error}") from error

    def _path(self, written: str, where: str) -> Path | None:
        """The file that a row names; None if it does not exist."""
        relative = PurePosixPath(written).as_posix()  # `./a.wav` and `a//b.wav` are common in tables
        path = path_below(self.folder, relative, f"{where}: audio", DataError, f"name a file below {self.folder}")
        if path.is_dir():
            raise DataError(f"{where}: audio {written[:80]!r} is a folder, where a file is expected.")
        return path if path.is_file() else None


def _parse_columns(typed: Sequence[str]) -> dict[str, str]:
    columns = {}
    for column in typed:
        name, separator, value = column.partition("=")
        if not separator or not value:
            raise UsageError(f"--column {column}: write it as NAME=COLUMN, for example --column label=emotion.")
        columns[name.strip()] = value.strip()
    return columns


def _parse_labels(typed: str) -> list[str]:
    return [label.strip() for label in typed.split(",") if label.strip()]


def _parse_splits(typed: str) -> tuple[float, float, float]:
    try:
        train, dev, test = (float(share) for share in typed.split(","))
    except ValueError as error:
        raise UsageError(f"--splits {typed}: name three shares, for example 0.8,0.1,0.1.") from error
    return train, dev, test


@importer(
    "table",
    help="A table of your own; also a repaired quarantine file, or a batch of new dialogues (--base).",
    source="CSV, TSV, JSONL or parquet, one row for each utterance.",
)
def import_table(
    source: Path,
    directory: Path,
    *,
    columns: Annotated[
        Mapping[str, str] | None,
        Option(
            "The table's name for dialogue_id, turn, text, audio, label, speaker, split.",
            flag="--column",
            metavar="NAME=COLUMN",
            repeatable=True,
            parse=_parse_columns,
        ),
    ] = None,
    audio: Annotated[Path | None, Option("Directory that the table's audio paths are relative to.")] = None,
    labels: Annotated[
        Sequence[str],
        Option("The labels in order, separated by commas; by default sorted by name.", parse=_parse_labels),
    ] = (),
    name: Annotated[str, Option("Name of the dataset; by default the file's.")] = "",
    language: Annotated[str, Option("Language of the transcripts, a tag such as en.")] = "en",
    licence: Annotated[str, Option("Licence of the data.")] = "",
    splits: Annotated[
        tuple[float, float, float],
        Option(
            "Shares of train, dev and test, if the table has no column split.",
            parse=_parse_splits,
            typed_default="0.8,0.1,0.1",
        ),
    ] = (0.8, 0.1, 0.1),
    seed: Annotated[int, Option("Seed of the assignment of dialogues to splits.")] = 0,
    base: Annotated[
        Path | None,
        Option("An existing dataset to copy; the table's dialogues replace those of the same dialogue_id."),
    ] = None,
    text_only: TextOnly = False,
    missing_audio: Annotated[
        Literal["fail", "missing"], Option("What to do about a missing audio file: fail, or missing.")
    ] = "fail",
) -> ImportReport:
    """Convert a table to the dataset form.

    The table has a row for each utterance with ``dialogue_id``, ``label``, ``text`` or ``audio`` or both, and may have
    ``turn`` (by default the order of the rows), ``speaker`` and ``split``; other columns are ignored. Turns are renumbered from
    0. ``audio`` is a path relative to the audio folder or, in parquet, the encoded file itself, as bytes or as ``{bytes, path}``;
    the rows of such a table must be grouped by dialogue.

    Without ``split``, whole dialogues are assigned by a hash of their names. If the table has speakers, and enough groups of them
    never share a dialogue, no speaker is in two splits.

    Args:
        source: ``.csv``, ``.tsv`` (both with a header, in UTF-8), ``.jsonl`` or ``.parquet``.
        directory: directory of the new dataset; must not exist or be empty.
        columns: the names in the table of the dataset's columns, if they differ.
        audio: directory that audio paths are relative to; by default the table's.
        labels: all labels in order; by default those of the table, sorted. A whole number that is not a label is the index of one.
        name: name of the dataset; by default the file's.
        language: language of the text.
        licence: licence of the data.
        splits: shares of train, dev and test, if the table has no column ``split``.
        seed: seed of the assignment to splits.
        base: an existing dataset to copy, except the dialogues that the table has too. Its labels, name, language and licence are
            kept, and so is the split of a dialogue unless the table names another.
        text_only: leave the audio out.
        missing_audio: how to treat an audio path without a readable file: as an error, or as an utterance without audio.

    Raises:
        UsageError: an argument is invalid.
        DataError: the table or the base is unreadable, or a row is invalid; the sentence names it.
        MistereError: an audio file needs ffmpeg, which is not installed.
    """
    check_shares(splits)
    if missing_audio not in ("fail", "missing"):
        raise UsageError(f"missing_audio is {missing_audio!r}: it is `fail` or `missing`.")
    table = read_rows(source, columns or {}, text_only=text_only)
    dialogues = _dialogues(table)
    old = read_base(base, frozenset(dialogues), audio=not text_only) if base is not None else None
    if old is not None and labels and list(labels) != old.info.labels:
        raise UsageError(f"labels are those of {base} ({', '.join(old.info.labels)}); leave them out here.")
    known = old.info.labels if old is not None else list(labels)
    names = {row.label: _label(row, known) for row in table.rows}
    assignment = _assignment(table, dialogues, splits, seed, old)
    info = DatasetInfo.model_construct(
        name=name or source.stem,
        description=f"Imported from the table {source.name}." + (" Text only." if text_only else ""),
        labels=known or _sorted(set(names.values())),
        language=language,
        licence=licence,
        splits=_split_description(table, splits, seed, assignment),
        speaker_disjoint=_disjoint(table, assignment, old),
        synthetic=False,
        source=source.name,
    )
    if old is not None:
        info = old.info.model_copy(
            update={"speaker_disjoint": info.speaker_disjoint, **({"name": name} if name else {})}
        )
    try:
        info = DatasetInfo.model_validate(info.model_dump())
    except ValidationError as error:
        raise DataError(f"{source}: the labels {', '.join(info.labels)[:200]}: {error.errors()[0]['msg']}.") from error
    audio_source = _AudioSource(
        source, table, audio if audio is not None else source.parent, missing_audio == "missing"
    )
    audio_source.check()
    report = write_counted(directory, info, _rows(dialogues, audio_source, names, assignment, old))
    return replace(report, notes=_notes(table, dialogues, assignment, old, report) + audio_source.reader.notes())


def _dialogues(table: Table) -> _Dialogues:
    """The rows by dialogue, dialogues in the order of their first rows."""
    dialogues: _Dialogues = {}
    last = ""
    for row in table.rows:
        if table.embedded and row.dialogue in dialogues and row.dialogue != last:
            raise DataError(
                f"{row.where}: dialogue {row.dialogue} continues here after another one began: the rows of a table that holds "
                "audio must be grouped by dialogue, so sort it by dialogue first."
            )
        last = row.dialogue
        rows = dialogues.setdefault(row.dialogue, [])
        if rows and rows[0].split != row.split:
            raise DataError(
                f"{row.where}: dialogue {row.dialogue} is in {rows[0].split} and in {row.split}; a dialogue has one split."
            )
        rows.append(row)
    for rows in dialogues.values():
        turns: set[int] = set()
        for row in rows:
            if row.turn in turns:
                raise DataError(f"{row.where}: dialogue {row.dialogue} has turn {row.turn} twice; each occurs once.")
            if row.turn is not None:
                turns.add(row.turn)
    return dialogues


def _label(row: Row, known: Sequence[str]) -> str:
    if not known or row.label in known:
        return row.label
    if row.label.isascii() and row.label.isdecimal() and len(row.label) < 10 and int(row.label) < len(known):
        return known[int(row.label)]
    raise DataError(f"{row.where}: unknown label {row.label[:40]!r}; the labels are {', '.join(known)}.")


def _sorted(labels: set[str]) -> list[str]:
    """Sort by name, or by value if all labels are whole numbers."""
    if all(label.removeprefix("-").isdecimal() for label in labels):
        return sorted(labels, key=int)
    return sorted(labels)


def _assignment(
    table: Table, dialogues: _Dialogues, shares: Sequence[float], seed: int, old: Base | None
) -> Assignment:
    if "split" in table.columns:
        return Assignment({name: rows[0].split or "train" for name, rows in dialogues.items()}, by_speaker=False)
    kept = {name: old.splits[name] for name in dialogues if old is not None and name in old.splits}
    settled = {speaker: set(splits) for speaker, splits in (old.speakers if old is not None else {}).items()}
    for name, split in kept.items():
        for row in dialogues[name]:
            if row.speaker is not None:
                settled.setdefault(row.speaker, set()).add(split)
    new = {
        name: frozenset(row.speaker for row in rows if row.speaker is not None)
        for name, rows in dialogues.items()
        if name not in kept
    }
    assigned = assign(new, shares, seed, {speaker: frozenset(splits) for speaker, splits in settled.items()})
    return Assignment({**kept, **assigned.splits}, assigned.by_speaker)


def _split_description(table: Table, shares: Sequence[float], seed: int, assignment: Assignment) -> str:
    if "split" in table.columns:
        return "The table's own."
    percent = " / ".join(f"{share:.0%}" for share in shares)
    apart = "; no speaker is in two splits" if assignment.by_speaker else ""
    return f"By whole dialogues, {percent}, from a hash of their names with seed {seed}{apart}."


def _disjoint(table: Table, assignment: Assignment, old: Base | None) -> bool:
    """Whether no speaker is in two splits; this needs a speaker for every utterance, unless dialogues are only replaced."""
    speakers: dict[str, set[Split]] = {
        speaker: set(splits) for speaker, splits in (old.speakers if old else {}).items()
    }
    for row in table.rows:
        if row.speaker is not None:
            speakers.setdefault(row.speaker, set()).add(assignment.splits[row.dialogue])
    if any(len(splits) > 1 for splits in speakers.values()):
        return False
    replaced = old is not None and all(old.splits.get(name) == split for name, split in assignment.splits.items())
    if replaced and old is not None and old.info.speaker_disjoint:
        return True
    return not any(row.speaker is None for row in table.rows) and not (old is not None and old.anonymous)


def _rows(
    dialogues: _Dialogues, audio: _AudioSource, names: Mapping[str, str], assignment: Assignment, old: Base | None
) -> Iterator[tuple[Split, Utterance]]:
    """The base's rows, then the table's; at most the audio of one dialogue and one batch of rows is in memory."""
    if old is not None:
        yield from old.rows()
    embedded = read_embedded(audio.source, audio.table) if audio.table.embedded else None
    for dialogue, rows in dialogues.items():
        embedded_audio = [next(embedded, None) if embedded is not None else None for _ in rows]
        order = sorted(range(len(rows)), key=lambda index: (rows[index].turn or 0, index))
        for turn, index in enumerate(order):
            row = rows[index]
            sound = audio.reader.take(embedded_audio[index], row.where) or audio.of_path(row)
            utterance = Utterance(dialogue, turn, names[row.label], row.text, sound, row.speaker)
            yield assignment.splits[dialogue], utterance


def _notes(
    table: Table, dialogues: _Dialogues, assignment: Assignment, old: Base | None, report: ImportReport
) -> list[str]:
    notes = []
    if old is not None:
        replaced = sum(name in old.splits for name in dialogues)
        notes.append(f"{replaced} dialogues of the base are replaced, {len(dialogues) - replaced} are new.")
        if old.torn:
            notes.append(f"{len(old.torn)} replaced dialogues were in several splits of the base, and are in one now.")
    gaps = sum(
        sorted(row.turn or 0 for row in rows) != list(range(len(rows)))
        for rows in dialogues.values()
        if rows[0].turn is not None
    )
    if gaps:
        notes.append(f"{gaps} dialogues do not number their turns from 0 without gaps: they are numbered again.")
    if "split" not in table.columns and "speaker" in table.columns and not assignment.by_speaker:
        notes.append("The speakers are too mixed to keep them apart: some are in several splits, or may be.")
    notes += [f"No dialogue is in {split}: training needs one there." for split in SPLITS if split not in report.counts]
    return notes
