"""CMU-MOSI (Zadeh et al., 2016): opinions in videos, from the raw release."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Literal

from mistere.common.errors import DataError, UsageError
from mistere.common.splits import SPLITS, Split
from mistere.corpora.delimited import read_delimited
from mistere.corpora.features.option import FeatureFiles, Features
from mistere.corpora.features.span import Span
from mistere.corpora.import_report import ImportReport, some, write_counted
from mistere.corpora.importer import Option, TextOnly, importer
from mistere.corpora.media import AudioReader
from mistere.corpora.mosi_folds import FOLDS
from mistere.corpora.published_counts import differences
from mistere.corpora.text_files import read_lines
from mistere.data.dataset import DatasetInfo, Utterance

LABELS = ("negative", "positive")
_SCORE_TABLES = ("OpinionLevelSentiment.csv", "label.csv")
_COLUMN_NAMES = {
    "video": ("video_id", "video"),
    "segment": ("clip_id", "segment_no", "segment_id", "segment"),
    "score": ("label", "score", "sentiment"),
    "text": ("text",),
    "start": ("start", "start_time"),
    "end": ("end", "end_time"),
}
_ZERO = {"positive": "0 counts as positive", "drop": "segments of score 0 are left out"}


@dataclass(frozen=True, slots=True)
class _Segment:
    """One row of the table of scores; ``text`` and the times in seconds are None if the table has no such columns."""

    score: float
    text: str | None
    start: float | None = None
    end: float | None = None


@dataclass(slots=True)
class _Tally:
    """Counts for the notes."""

    zeros: int = 0
    untranscribed: list[str] = field(default_factory=list)
    audio: AudioReader = field(default_factory=AudioReader)


_Videos = dict[str, dict[int, _Segment]]


@importer("mosi", help="CMU-MOSI: segments, transcripts and scores, as negative and positive.")
def import_mosi(
    source: Path,
    directory: Path,
    *,
    zero: Annotated[
        Literal["positive", "drop"], Option("What to do with a score of 0: positive, or drop.")
    ] = "positive",
    text_only: TextOnly = False,
    features: FeatureFiles = None,
) -> ImportReport:
    """Convert CMU-MOSI to the dataset form, in its standard folds.

    A video is a dialogue, its segments are the turns. The raw release's ``Transcript/Segmented/<video>.annotprocessed`` and
    ``Audio/WAV_16000/Segmented/<video>_<segment>.wav`` are read, or ``<video>/<segment>.mp4``; all of it in ``source`` or in
    ``Raw`` below it. The scores, −3 to 3, are in a table in one of these or in ``Labels``:
    ``OpinionLevelSentiment.csv`` (no header: start, end, video, segment, score; or video, segment, score), or ``label.csv``
    (a header with ``video_id``, ``clip_id``, ``label``, and ``text``, which stands in for missing transcripts).
    Transcripts are in capitals, and stay so.

    In feature files a segment is called ``<video>_<segment>``, or ``<video>[<index>]`` as in the aligned sequences of the
    CMU-MultimodalSDK, which count the segments of a video from 0; a sequence of a whole video, ``<video>``, is cut by the times in
    the table of scores.

    Args:
        source: the folder of the release.
        directory: directory of the new dataset; must not exist or be empty.
        zero: how to treat a score of exactly 0: ``positive`` (which gives the published counts), or ``drop``.
        text_only: leave the audio out.
        features: feature files by modality.

    Raises:
        UsageError: ``zero`` has another value, or the table of scores is missing.
        DataError: a file is unreadable or invalid.
        MissingPackageError: there are videos, and ffmpeg is not installed.
    """
    if zero not in _ZERO:
        raise UsageError(f"zero is {zero!r}: a score of 0 is `positive` or `drop`.")
    roots = [source, source / "Raw"]
    videos = _scores(_score_table(roots))
    unknown = sorted(set(videos) - set(FOLDS))
    root = next((folder for folder in roots if (folder / "Transcript" / "Segmented").is_dir()), None)
    media = [folder for folder in roots if _has_media(folder, videos)]
    audio = bool(media) and not text_only
    vectors = Features(features)
    info = DatasetInfo(
        name="mosi",
        description="CMU-MOSI: opinions spoken to the camera in videos, segment by segment, negative (score below 0) or "
        f"positive (above 0); {_ZERO[zero]}." + ("" if audio else " Text only."),
        labels=list(LABELS),
        language="en",
        licence="CMU-MOSI's own: for research; the videos belong to their authors",
        splits="The standard folds of the CMU-MultimodalSDK, by video; some people speak in several videos, and the ids do "
        "not tell who.",
        speaker_disjoint=False,
        source="http://multicomp.cs.cmu.edu/resources/cmu-mosi-dataset/",
        modalities=vectors.kinds,
    )
    tally = _Tally()
    report = write_counted(directory, info, _rows(videos, root, media if audio else [], zero, tally, vectors))
    notes = differences("mosi", report.counts, report.dialogues)
    if unknown:
        notes.append(f"{len(unknown)} videos are in none of the standard folds and are left out ({some(unknown)}).")
    if tally.zeros:
        notes.append(f"{tally.zeros} segments have a score of exactly 0: {_ZERO[zero]}.")
    if tally.untranscribed:
        notes.append(f"{len(tally.untranscribed)} segments have no transcript ({some(tally.untranscribed)}).")
    notes += [*tally.audio.notes(), *vectors.notes()]
    if not audio and not text_only:
        notes.append(f"{source} holds neither Audio/WAV_16000/Segmented nor folders of clips: text only.")
    return replace(report, notes=notes)


def _rows(
    videos: _Videos, root: Path | None, media: list[Path], zero: str, tally: _Tally, vectors: Features
) -> Iterator[tuple[Split, Utterance]]:
    for split in SPLITS:
        for video in sorted(name for name in videos if FOLDS.get(name) == split):
            transcript = _transcript(root / "Transcript" / "Segmented", video) if root else {}
            turn = 0
            for index, (number, segment) in enumerate(sorted(videos[video].items())):
                tally.zeros += segment.score == 0
                if segment.score == 0 and zero == "drop":
                    continue
                name = f"{video}_{number}"
                text = transcript.get(number) or segment.text
                if not text:
                    tally.untranscribed.append(name)
                sound = tally.audio.read(_clip(media, video, number), name) if media else None
                label = LABELS[segment.score >= 0]
                others = vectors.of(Span((name, f"{video}[{index}]"), video, segment.start, segment.end))
                yield split, Utterance(video, turn, label, text or None, sound, speaker=video, others=others)
                turn += 1
    vectors.finish()


def _score_table(roots: list[Path]) -> Path:
    for root in roots:
        for folder in (root, root / "Labels", root / "labels"):
            for name in _SCORE_TABLES:
                if (folder / name).is_file():
                    return folder / name
    raise UsageError(
        f"{roots[0]} holds no table of scores: {' or '.join(_SCORE_TABLES)} is expected in it, in Raw or in Labels."
    )


def _scores(path: Path) -> _Videos:
    """The table of scores by video and segment."""
    rows = read_delimited(path)
    line_number, first = next(rows, (0, []))
    names = [name.strip().lower() for name in first]
    header = any(name in _COLUMN_NAMES["video"] for name in names)
    if header:
        columns = {
            column: names.index(present[0])
            for column, known in _COLUMN_NAMES.items()
            if (present := [name for name in known if name in names])
        }
    else:
        offset = {5: 2, 3: 0}.get(len(first))
        if offset is None:
            raise DataError(
                f"{path}, line 1: {len(first)} fields; 5 (start, end, video, segment, score) or 3 are expected."
            )
        columns = {"video": offset, "segment": offset + 1, "score": offset + 2}
        columns |= {"start": 0, "end": 1} if offset else {}
    for column in ("video", "segment", "score"):
        if column not in columns:
            raise DataError(f"{path} lacks a column for the {column}: {' or '.join(_COLUMN_NAMES[column])}.")
    videos: _Videos = {}
    for line, row in rows if header else chain([(line_number, first)], rows):
        where = f"{path}, line {line}"
        if len(row) != len(first):
            raise DataError(f"{where}: {len(row)} fields, where the first line has {len(first)}.")
        segments = videos.setdefault(row[columns["video"]].strip(), {})
        number = _number(row[columns["segment"]], where)
        if number in segments:
            raise DataError(f"{where}: this video already has a segment {number}; each occurs once.")
        text = row[columns["text"]].strip() if "text" in columns else None
        times = [_seconds(row[columns[name]]) if name in columns else None for name in ("start", "end")]
        segments[number] = _Segment(_score(row[columns["score"]], where), text, *times)
    if not videos:
        raise DataError(f"{path} holds no scores: unpack the corpus again.")
    return videos


def _number(value: str, where: str) -> int:
    value = value.strip()
    if not (value.isascii() and value.isdecimal() and len(value) < 10):
        raise DataError(f"{where}: the segment is {value[:40]!r}, not a whole number.")
    return int(value)


def _score(value: str, where: str) -> float:
    try:
        score = float(value)
    except ValueError:
        score = math.nan
    if not -3 <= score <= 3:
        raise DataError(f"{where}: the score is {value.strip()[:40]!r}, not a number from -3 to 3.")
    return score


def _seconds(value: str) -> float | None:
    """A time; None if the cell is no number, since only sequences of whole videos need it."""
    try:
        seconds = float(value)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) else None


def _transcript(folder: Path, video: str) -> dict[int, str]:
    """The transcript of a video by segment; empty if there is no file."""
    path = folder / f"{video}.annotprocessed"
    if not path.exists():
        return {}
    texts: dict[int, str] = {}
    for line, content in enumerate(read_lines(path), start=1):
        if content.strip():
            number, delimiter, text = content.partition("_DELIM_")
            if not delimiter:
                raise DataError(f"{path}, line {line}: `<segment>_DELIM_<text>` is expected.")
            texts[_number(number, f"{path}, line {line}")] = text.strip()
    return texts


def _has_media(root: Path, videos: _Videos) -> bool:
    return (root / "Audio" / "WAV_16000" / "Segmented").is_dir() or any(
        (root / video).is_dir() for video in FOLDS if video in videos
    )


def _clip(media: list[Path], video: str, segment: int) -> Path | None:
    for root in media:
        for path in (
            root / "Audio" / "WAV_16000" / "Segmented" / f"{video}_{segment}.wav",
            root / video / f"{segment}.wav",
            root / video / f"{segment}.mp4",
        ):
            if path.is_file():
                return path
    return None
