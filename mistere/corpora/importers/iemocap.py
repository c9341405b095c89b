"""IEMOCAP (Busso et al., 2008), from the folders of ``IEMOCAP_full_release``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from mistere.common.counting import counted, plural
from mistere.common.errors import DataError, UsageError
from mistere.common.splits import Split
from mistere.corpora.features.option import FeatureFiles, Features
from mistere.corpora.features.span import Span
from mistere.corpora.import_report import ImportReport, some, write_counted
from mistere.corpora.importer import Option, TextOnly, importer
from mistere.corpora.media import AudioReader
from mistere.corpora.published_counts import differences
from mistere.corpora.text_files import read_lines
from mistere.data.dataset import DatasetInfo, Utterance

LABELS: dict[int, dict[str, str]] = {
    6: {"hap": "happy", "sad": "sad", "neu": "neutral", "ang": "angry", "exc": "excited", "fru": "frustrated"},
    4: {"hap": "happy", "exc": "happy", "sad": "sad", "neu": "neutral", "ang": "angry"},
}
"""The codes of the corpus and their label names, in the order of the labels, for six and for four classes."""

_CODES = frozenset({*LABELS[6], "xxx", "sur", "fea", "dis", "oth"})
_SESSIONS = range(1, 6)
_TEST_SESSION = 5
_EVALUATION = re.compile(r"\[(\d+\.\d+) - (\d+\.\d+)\]\t(\S+)\t(\S+)\t\[")
_TRANSCRIPT = re.compile(r"(Ses\S+) \[[\d.]+-[\d.]+\]:(.*)")
_UTTERANCE = re.compile(r"(Ses\d\d)[FM]_\w+_([FM])\w+")


@dataclass(frozen=True, slots=True)
class _Labelled:
    """One line of an evaluation file."""

    start: float
    end: float
    name: str
    code: str
    speaker: str


@dataclass(slots=True)
class _Tally:
    """Counts for the notes."""

    others: Counter[str] = field(default_factory=Counter)
    untranscribed: list[str] = field(default_factory=list)
    audio: AudioReader = field(default_factory=AudioReader)


@importer("iemocap", help="IEMOCAP: its five sessions, the last one as test.")
def import_iemocap(
    source: Path,
    directory: Path,
    *,
    classes: Annotated[Literal[6, 4], Option("Number of classes: 6, or 4 (happy and excited are one).")] = 6,
    dev_session: Annotated[int, Option("The session used as dev; session 5 is test.", minimum=1, maximum=4)] = 4,
    text_only: TextOnly = False,
    features: FeatureFiles = None,
    labelled_only: Annotated[
        bool,
        Option("Leave out the turns with other labels, as published figures do, instead of importing them as context."),
    ] = False,
) -> ImportReport:
    """Convert IEMOCAP to the dataset form.

    Session 5 is the test split, one session is dev, the others are train. Each session has its own two speakers, so no speaker is
    in two splits. Utterances with other labels, or without a label that the annotators agree on, are context: turns without a label.
    A dialogue that has only such turns is left out. Turns are numbered in the order of their start times.

    Args:
        source: the folder ``IEMOCAP_full_release``, or its parent.
        directory: directory of the new dataset; must not exist or be empty.
        classes: 6 (happy, sad, neutral, angry, excited, frustrated) or 4 (excited counts as happy, frustrated is left out).
        dev_session: the session used as dev, 1 to 4.
        text_only: leave the audio out.
        features: feature files by modality. An utterance is called as in the release (``Ses01F_impro01_F000``); frames of a whole
            dialogue (``Ses01F_impro01``) are cut by the times of its utterances.
        labelled_only: leave the turns out that would be context.

    Raises:
        UsageError: ``classes`` or ``dev_session`` has another value, or a session or file is missing.
        DataError: a file is unreadable, or a line is invalid.
        MissingPackageError: a recording needs ffmpeg, which is not installed.
    """
    if classes not in LABELS:
        raise UsageError(f"classes is {classes}: IEMOCAP is taken with 6 or with 4 classes.")
    if dev_session not in _SESSIONS or dev_session == _TEST_SESSION:
        raise UsageError(f"dev_session is {dev_session}: it is one of the sessions 1 to 4 (session 5 is test).")
    sessions = _sessions(source)
    audio = not text_only and any((session / "sentences" / "wav").is_dir() for session in sessions)
    names = LABELS[classes]
    vectors = Features(features)
    info = DatasetInfo(
        name="iemocap" if classes == 6 else f"iemocap-{classes}",
        description=f"IEMOCAP: acted and improvised dialogues of two, with one of {len(set(names.values()))} emotions an "
        f"utterance; utterances with other labels are {'left out' if labelled_only else 'context'}."
        + (" Excited counts as happy." if classes == 4 else "")
        + ("" if audio else " Text only."),
        labels=list(dict.fromkeys(names.values())),
        language="en",
        licence="IEMOCAP's own: for research, from the University of Southern California on request",
        splits=f"By session: {_TEST_SESSION} is test, {dev_session} is dev, the others are train.",
        speaker_disjoint=True,
        source="https://sail.usc.edu/iemocap/",
        modalities=vectors.kinds,
    )
    tally = _Tally()
    rows = _rows(sessions, names, dev_session, tally, audio, vectors, labelled_only)
    report = write_counted(directory, info, rows)
    notes = differences("iemocap", report.labelled, report.dialogues) if classes == 6 else []
    if tally.others:
        total = tally.others.total()
        codes = ", ".join(f"{code} {count}" for code, count in sorted(tally.others.items()))
        fate = f"{plural(total, 'is', 'are')} {'left out' if labelled_only else 'context'}"
        notes.append(f"{counted(total, 'utterance')} with other labels {fate} ({codes}).")
    if tally.untranscribed:
        notes.append(
            f"{counted(len(tally.untranscribed), 'utterance')} {plural(len(tally.untranscribed), 'has', 'have')} no transcript ({some(tally.untranscribed)})."
        )
    notes += [*tally.audio.notes(), *vectors.notes()]
    if not audio and not text_only:
        notes.append(f"{source} holds no sentences/wav folder: text only.")
    return replace(report, notes=notes)


def _sessions(source: Path) -> list[Path]:
    root = source if (source / "Session1").is_dir() else source / "IEMOCAP_full_release"
    for number in _SESSIONS:
        folder = root / f"Session{number}" / "dialog" / "EmoEvaluation"
        if not folder.is_dir():
            where = source / folder.relative_to(root)
            raise UsageError(f"{where} is missing: IEMOCAP_full_release holds the folders Session1 to Session5.")
    return [root / f"Session{number}" for number in _SESSIONS]


def _rows(
    sessions: list[Path],
    names: dict[str, str],
    dev_session: int,
    tally: _Tally,
    audio: bool,
    vectors: Features,
    labelled_only: bool,
) -> Iterator[tuple[Split, Utterance]]:
    for number, session in zip(_SESSIONS, sessions, strict=True):
        split: Split = "test" if number == _TEST_SESSION else "dev" if number == dev_session else "train"
        for path in _evaluations(session):
            labelled = _labelled(path)
            tally.others.update(line.code for line in labelled if line.code not in names)
            some_labelled = any(line.code in names for line in labelled)
            kept = [line for line in labelled if line.code in names or (some_labelled and not labelled_only)]
            transcript = _transcript(session / "dialog" / "transcriptions" / path.name) if kept else {}
            for turn, line in enumerate(kept):
                text = transcript.get(line.name)
                if not text:
                    tally.untranscribed.append(line.name)
                recording = session / "sentences" / "wav" / path.stem / f"{line.name}.wav"
                sound = tally.audio.read(recording, line.name) if audio else None
                others = vectors.of(Span((line.name,), path.stem, line.start, line.end))
                label = names.get(line.code)
                yield split, Utterance(path.stem, turn, label, text or None, sound, line.speaker, others=others)
    vectors.finish()


def _evaluations(session: Path) -> list[Path]:
    """The files with the labels of the dialogues, without the ``._…`` files that macOS writes beside them."""
    folder = session / "dialog" / "EmoEvaluation"
    files = sorted(path for path in folder.iterdir() if path.suffix == ".txt" and not path.name.startswith("."))
    if not files:
        raise UsageError(f"{folder} holds no evaluation (SesXXX_….txt): unpack the whole IEMOCAP_full_release.")
    return files


def _labelled(path: Path) -> list[_Labelled]:
    """The labelled utterances of a dialogue by start time."""
    labelled: dict[str, _Labelled] = {}
    for number, line in enumerate(read_lines(path), start=1):
        match = _EVALUATION.match(line)
        if match is None:
            continue
        start, end, name, code = match.groups()
        where = f"{path}, line {number}"
        utterance = _UTTERANCE.fullmatch(name)
        if utterance is None:
            raise DataError(f"{where}: {name[:60]!r} is no utterance's name, such as {path.stem}_F000.")
        if code not in _CODES:
            raise DataError(f"{where}: unknown label {code[:40]!r}; IEMOCAP has {', '.join(sorted(_CODES))}.")
        if name in labelled:
            raise DataError(f"{where}: {name} is labelled twice; each utterance occurs once.")
        labelled[name] = _Labelled(float(start), float(end), name, code, "_".join(utterance.groups()))
    if not labelled:
        raise DataError(f"{path} labels no utterance: lines such as `[6.2901 - 8.2357] …_F000 neu […]` are expected.")
    return sorted(labelled.values(), key=lambda line: (line.start, line.name))


def _transcript(path: Path) -> dict[str, str]:
    """The transcript of a dialogue by utterance."""
    matches = (_TRANSCRIPT.match(line) for line in read_lines(path))
    return {match.group(1): match.group(2).strip() for match in matches if match}
