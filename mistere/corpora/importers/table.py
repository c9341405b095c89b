"""Import a table (CSV, TSV, JSONL or parquet) as a new dataset, or into a copy of an existing one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ValidationError

from mistere.common.counting import counted, plural
from mistere.common.errors import DataError, UsageError
from mistere.common.splits import Split
from mistere.corpora.features.option import FeatureFiles, Features
from mistere.corpora.features.span import Span
from mistere.corpora.import_report import ImportReport, write_counted
from mistere.corpora.importer import Option, TextOnly, importer
from mistere.corpora.tables.base import Base, read_base
from mistere.corpora.tables.context import ContextRule, check_roles
from mistere.corpora.tables.dialect import parse_delimiter
from mistere.corpora.tables.labels import Labels, name_labels
from mistere.corpora.tables.recordings import Recordings
from mistere.corpora.tables.rows import Row, Table, read_rows
from mistere.corpora.tables.split_plan import (
    assign_dialogues,
    describe_splits,
    reported_splits,
    speakers_disjoint,
    split_notes,
)
from mistere.corpora.tables.splits import AUDIO, TEXT, Assignment, Dialogue, Kind, check_shares
from mistere.data.dataset import DatasetInfo, Utterance, load_info

_Dialogues = dict[str, list[Row]]


def _parse_columns(typed: Sequence[str]) -> dict[str, str]:
    columns = {}
    for column in typed:
        name, separator, value = column.partition("=")
        if not separator or not value:
            raise UsageError(f"--column {column}: write it as NAME=COLUMN, for example --column label=emotion.")
        columns[name.strip()] = value.strip()
    return columns


def _parse_roles(typed: Sequence[str]) -> list[str]:
    return [role.strip() for role in typed if role.strip()]


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
            "The table's name for dialogue_id, turn, text, audio, label, speaker, split, role, language.",
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
    language: Annotated[str, Option("Language of the transcripts, a tag such as de; by default en.")] = "",
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
    delimiter: Annotated[
        str,
        Option(
            "Separator of the fields of a CSV or TSV file, such as ';' or tab; by default found in the header.",
            parse=lambda typed: parse_delimiter(typed) if typed else "",
        ),
    ] = "",
    quotes: Annotated[
        Literal["auto", "csv", "text"],
        Option(
            "Whether quotes enclose fields: csv, or are text: text; auto is csv in CSV files, and text in TSV files."
        ),
    ] = "auto",
    features: FeatureFiles = None,
    predict_roles: Annotated[
        Sequence[str],
        Option(
            "A role whose turns are predicted; turns of other roles are context, whatever their label. By default all turns are.",
            flag="--predict-role",
            metavar="ROLE",
            repeatable=True,
            parse=_parse_roles,
        ),
    ] = (),
    unlabelled: Annotated[
        Literal["fail", "context"],
        Option("What to do about a turn without a label: fail, or import it as context."),
    ] = "fail",
) -> ImportReport:
    """Convert a table to the dataset form.

    The table has a row for each utterance with ``dialogue_id``, ``label``, ``text`` or ``audio`` or both (neither is needed with
    ``features``), and may have
    ``turn`` (by default the order of the rows), ``speaker``, ``role``, ``language`` and ``split``; other columns are named in the report. Turns are
    renumbered from 0. ``audio`` is a path relative to the audio folder, or the recording itself: an encoded file as bytes,
    ``{bytes, path}``, ``{data}`` or base64, or samples as ``{array, sampling_rate}``; the rows of such a table must be grouped by
    dialogue.

    Without ``split``, whole dialogues are assigned by a seed, with similar shares of labels and modalities. If the table has
    speakers, and enough groups of them never share a dialogue, no speaker is in two splits.

    Args:
        source: ``.csv``, ``.tsv`` (both with a header, in UTF-8), ``.jsonl`` or ``.parquet``.
        directory: directory of the new dataset; must not exist or be empty.
        columns: the names in the table of the dataset's columns, if they differ.
        audio: directory that audio paths are relative to; by default the table's.
        labels: all labels in order; by default those of the table, sorted, or the class names that ``datasets`` stored in it. A whole
            number that is not a label is the index of one; a label that differs only in case is the one listed.
        name: name of the dataset; by default the file's.
        language: language of the text; by default that of the column ``language`` (``mul`` for several), or English.
        licence: licence of the data.
        splits: shares of train, dev and test, if the table has no column ``split``.
        seed: seed of the assignment to splits.
        base: an existing dataset to copy, except the dialogues that the table has too. Its labels, name, language and licence are
            kept, and so is the split of a dialogue unless the table names another.
        text_only: leave the audio out.
        missing_audio: how to treat an audio path without a readable file: as an error, or as an utterance without audio.
        delimiter: separator of the fields of a CSV or TSV file; empty to detect it.
        quotes: whether quotes enclose the fields of a CSV or TSV file, ``csv``, or are ordinary characters, ``text``; ``auto`` is the usual meaning.
        features: feature files by modality. An utterance is called ``<dialogue_id>_<turn>`` or ``<dialogue_id>/<turn>`` in them, with
            the turn of the table, or the number of the row in its dialogue from 0.
        predict_roles: turns of other roles are imported as context, without their label; empty for those of the base, if it has any.
        unlabelled: how to treat a turn without a label: as an error, or as context. With class names, -1 means no label.

    Raises:
        UsageError: an argument is invalid, a column that every table needs is missing, or so is a recording.
        DataError: the table or the base is unreadable, or a row is invalid; the sentence names it.
        MissingPackageError: an audio file needs ffmpeg, which is not installed.
    """
    check_shares(splits)
    if missing_audio not in ("fail", "missing"):
        raise UsageError(f"missing_audio is {missing_audio!r}: it is `fail` or `missing`.")
    if unlabelled not in ("fail", "context"):
        raise UsageError(f"unlabelled is {unlabelled!r}: it is `fail` or `context`.")
    if audio is not None and not audio.is_dir():
        raise UsageError(
            f"--audio: {audio} is not a directory: name the folder that the table's audio paths are relative to."
        )
    roles = list(dict.fromkeys(predict_roles)) or (load_info(base / "dataset.yaml").predict_roles if base else [])
    rule = ContextRule(roles, unlabelled == "context")
    table = read_rows(
        source,
        columns or {},
        text_only=text_only,
        delimiter=delimiter,
        quotes=quotes,
        context=rule,
        features=bool(features),
    )
    check_roles(predict_roles, [row.role for row in table.rows])
    dialogues = _dialogues(table)
    vectors = Features(features)
    old = read_base(base, frozenset(dialogues), audio=not text_only) if base is not None else None
    if old is not None:
        if labels and list(labels) != old.info.labels:
            raise UsageError(f"labels are those of {base} ({', '.join(old.info.labels)}); leave them out here.")
        for field, given in (("language", language), ("licence", licence)):
            if given and given != (kept := getattr(old.info, field)):
                raise UsageError(f"--{field}: it is that of {base} ({kept or 'none'}); leave it out here.")
        if roles != old.info.predict_roles:
            kept = ", ".join(old.info.predict_roles) or "none"
            raise UsageError(f"--predict-role: the roles are those of {base} ({kept}); leave it out here.")
    named = name_labels(table, old.info.labels if old is not None else labels)
    recordings = Recordings(
        source, table, audio if audio is not None else source.parent, lenient=missing_audio == "missing"
    )
    recordings.check()
    if old is None:
        recordings.refuse_empty_column()
    content = {dialogue: _content(rows, named, recordings) for dialogue, rows in dialogues.items()}
    assignment = assign_dialogues(table, dialogues, content, splits, seed, old)
    described = describe_splits(table, splits, seed, assignment)
    info = DatasetInfo.model_construct(
        name=name or source.stem,
        description=f"Imported from the table {source.name}." + (" Text only." if text_only else ""),
        labels=named.declared,
        language=language or _main_language(table),
        licence=licence,
        splits=described,
        speaker_disjoint=speakers_disjoint(table, assignment, old),
        synthetic=False,
        source=source.name,
        modalities=vectors.kinds,
        predict_roles=roles,
    )
    if old is not None:
        kept_name = {"name": name} if name else {}
        for modality, kind in vectors.kinds.items():
            if old.info.modalities.get(modality, kind) != kind:
                raise UsageError(
                    f"--features {modality}: it is of the kind {old.info.modalities[modality]} in {base}: choose another name."
                )
        modalities = {**old.info.modalities, **vectors.kinds}
        info = old.info.model_copy(
            update={"speaker_disjoint": info.speaker_disjoint, "modalities": modalities, **kept_name}
        )
    try:
        info = DatasetInfo.model_validate(info.model_dump())
    except ValidationError as error:
        raise DataError(f"{source}: the labels {', '.join(info.labels)[:200]}: {error.errors()[0]['msg']}.") from error
    report = write_counted(directory, info, _rows(dialogues, recordings, named, assignment, old, vectors))
    notes = [
        *table.notes,
        *named.notes,
        *rule.notes([row.role for row in table.rows if row.label is None]),
        *_notes(dialogues, old),
        *_lost_columns(table, old, text_only=text_only),
        *split_notes(table, content, assignment, old, report),
        *recordings.reader.notes(),
        *vectors.notes(),
    ]
    return replace(report, notes=notes, splits=reported_splits(table, dialogues, described, old))


def _main_language(table: Table) -> str:
    """The language of a dataset whose user names none: the rows' own, ``mul`` if they have several, and English without any."""
    languages = {row.language for row in table.rows if row.language is not None}
    return "en" if not languages else languages.pop() if len(languages) == 1 else "mul"


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


def _content(rows: Sequence[Row], named: Labels, recordings: Recordings) -> Dialogue:
    counts: Counter[Kind] = Counter()
    for row in rows:
        if row.label is not None:
            counts["label", named.names[row.label]] += 1
        if row.text is not None:
            counts[TEXT] += 1
        if recordings.holds(row):
            counts[AUDIO] += 1
    return Dialogue(frozenset(row.speaker for row in rows if row.speaker is not None), counts)


def _rows(
    dialogues: _Dialogues,
    recordings: Recordings,
    named: Labels,
    assignment: Assignment,
    old: Base | None,
    vectors: Features,
) -> Iterator[tuple[Split, Utterance]]:
    """The base's rows, then the table's; at most the audio of one dialogue and one batch of rows is in memory."""
    if old is not None:
        yield from old.rows()
    cells = recordings.cells()
    for dialogue, rows in dialogues.items():
        audio = [recordings.read(row, cells) for row in rows] if recordings.table.embedded else None
        order = sorted(range(len(rows)), key=lambda index: (rows[index].turn or 0, index))
        for turn, index in enumerate(order):
            row = rows[index]
            recording = audio[index] if audio is not None else recordings.read(row, cells)
            number = turn if row.turn is None else row.turn
            others = vectors.of(Span((f"{dialogue}_{number}", f"{dialogue}/{number}"), dialogue))
            label = None if row.label is None else named.names[row.label]
            yield (
                assignment.splits[dialogue],
                Utterance(dialogue, turn, label, row.text, recording, row.speaker, others, row.role, row.language),
            )
    recordings.finish()
    vectors.finish()


def _notes(dialogues: _Dialogues, old: Base | None) -> list[str]:
    notes = []
    if old is not None:
        replaced = sum(name in old.splits for name in dialogues)
        notes.append(
            f"{counted(replaced, 'dialogue')} of the base {plural(replaced, 'is', 'are')} replaced, {len(dialogues) - replaced} "
            f"{plural(len(dialogues) - replaced, 'is', 'are')} new."
        )
        if old.torn:
            notes.append(
                f"{counted(len(old.torn), 'replaced dialogue')} {plural(len(old.torn), 'was', 'were')} in several splits of the base, and "
                f"{plural(len(old.torn), 'is', 'are')} in one now."
            )
    gaps = sum(
        sorted(row.turn or 0 for row in rows) != list(range(len(rows)))
        for rows in dialogues.values()
        if rows[0].turn is not None
    )
    if gaps:
        notes.append(
            f"{counted(gaps, 'dialogue')} {plural(gaps, 'does', 'do')} not number the turns from 0 without gaps: they are numbered again."
        )
    return notes


def _lost_columns(table: Table, old: Base | None, *, text_only: bool) -> list[str]:
    """What the replaced dialogues of the base had and the table lacks."""
    lost = old.replaced_columns - table.columns - ({"audio"} if text_only else set()) if old is not None else ()
    return [
        f"The base has {column}, and the table has no such column: the replaced dialogues are without {column} now."
        for column in sorted(lost)
    ]
