"""Compare two versions of a dataset: rows, labels, speakers, durations, and bytes to fetch.

A shard with the same MD5 in both versions is read once, for the totals; only the others are compared row by row. The cost is one
pass over the shards; durations come from the headers of the recordings, which are not decoded. Memory grows with the rows of the
shards that differ, a few hundred bytes each.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from pydantic import BaseModel, Field

from mistere.common.errors import DataError, UsageError
from mistere.common.splits import SPLITS, Split
from mistere.data.audio import AudioError, extent
from mistere.data.dataset import DatasetInfo, Utterance, load_info, read_utterances, split_of
from mistere.data.dvc_remote import RemoteData
from mistere.data.kinds import kind_of
from mistere.data.versions import PinnedData

MAX_EXAMPLES = 10
UNLABELLED = "(no label)"
"""Stands for the label of the turns that have none and are context."""


class Pair(BaseModel):
    """A figure of both versions."""

    before: float
    after: float


class SplitDiff(BaseModel):
    """One split's totals."""

    utterances: Pair
    dialogues: Pair
    minutes: Pair
    median_seconds: Pair


class Rows(BaseModel):
    """Number of utterances that changed in one way, and the first ten of them."""

    count: int = 0
    examples: list[str] = Field(default_factory=list)

    def add(self, example: str) -> None:
        """Count one more utterance."""
        self.count += 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(example)


class DataDiff(BaseModel):
    """The differences of two versions of a dataset. Split, dialogue and turn identify an utterance.

    Attributes:
        before: DVC digest of the first version.
        after: of the second one.
        info: differences of dataset.yaml, a sentence for each.
        shards: names of the shards kept, added (or rewritten) and removed.
        bytes_to_fetch: bytes that a machine with the first version has to fetch.
        splits: totals of each split.
        labels: number of utterances of each label.
        added: new utterances.
        removed: removed utterances.
        moved: utterances that are in another split now.
        text: utterances with another transcript.
        audio: utterances with another recording.
        others: by further modality, utterances with another value of it.
        label: utterances with another label, or one more or less.
        role: utterances with another role.
        language: utterances with another language.
        relabelled: number of utterances for each change of label.
        speakers_added: new speakers.
        speakers_removed: removed speakers.
        unmeasured: recordings of the second version without a duration in the header.
    """

    before: str
    after: str
    info: list[str] = []
    shards: dict[str, list[str]]
    bytes_to_fetch: int
    splits: dict[str, SplitDiff]
    labels: dict[str, Pair]
    added: Rows = Field(default_factory=Rows)
    removed: Rows = Field(default_factory=Rows)
    moved: Rows = Field(default_factory=Rows)
    text: Rows = Field(default_factory=Rows)
    audio: Rows = Field(default_factory=Rows)
    others: dict[str, Rows] = Field(default_factory=dict, exclude_if=lambda others: not others)
    label: Rows = Field(default_factory=Rows)
    role: Rows = Field(default_factory=Rows)
    language: Rows = Field(default_factory=Rows)
    relabelled: dict[str, int] = {}
    speakers_added: list[str] = []
    speakers_removed: list[str] = []
    unmeasured: int = 0

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return self.before == self.after or not (self.info or self.shards["added"] or self.shards["removed"])


@dataclass(frozen=True, slots=True)
class _Row:
    label: str
    role: str | None
    language: str | None
    text: bytes
    audio: bytes
    others: Mapping[str, bytes]


_Key = tuple[Split, str, int]


@dataclass
class _Totals:
    """Totals by split, of a shard or of a version."""

    rows: Counter[str] = field(default_factory=Counter)
    dialogues: dict[str, set[str]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    labels: Counter[str] = field(default_factory=Counter)
    speakers: set[str] = field(default_factory=set)
    unmeasured: int = 0

    def add(self, other: _Totals) -> None:
        self.rows.update(other.rows)
        self.labels.update(other.labels)
        self.speakers |= other.speakers
        self.unmeasured += other.unmeasured
        for split, names in other.dialogues.items():
            self.dialogues.setdefault(split, set()).update(names)
        for split, values in other.seconds.items():
            self.seconds.setdefault(split, []).extend(values)


class _Version:
    """One version: its listing and its files."""

    def __init__(self, pinned: PinnedData) -> None:
        self.digest = pinned.digest
        self.remote = RemoteData(pinned.remote, pinned.digest)
        listing = self.remote.listing()
        self.shards = {name: md5 for name, md5 in listing.items() if split_of(name)}
        infos = [name for name in listing if name.rsplit("/", 1)[-1] == "dataset.yaml"]
        if len(infos) != 1:
            raise UsageError(
                f"version {pinned.digest} holds {len(infos)} files dataset.yaml, expected is one: name a version that "
                "tracks one dataset."
            )
        self.info: DatasetInfo = load_info(self.remote.fetch({infos[0]: listing[infos[0]]})[infos[0]], infos[0])
        self.paths: Mapping[str, Path] = self.remote.fetch(self.shards)

    def shared_with(self, other: _Version) -> set[str]:
        """Names of the shards that the other version holds too in the same split; duplicates count as often as they occur there."""
        available = Counter((split_of(name), md5) for name, md5 in other.shards.items())
        shared = set()
        for name, md5 in sorted(self.shards.items()):
            if available[split_of(name), md5]:
                available[split_of(name), md5] -= 1
                shared.add(name)
        return shared


def diff_datasets(before: PinnedData, after: PinnedData) -> DataDiff:
    """Compare two versions.

    Raises:
        MistereError: a version is incomplete in its remote.
        UsageError: a version is not one dataset.
        DataError: one of its shards is not readable.
    """
    old, new = _Version(before), _Version(after)
    kept, removed = new.shared_with(old), old.shards.keys() - old.shared_with(new)
    totals_old, totals_new = _Totals(), _Totals()
    rows_old: dict[_Key, _Row] = {}
    rows_new: dict[_Key, _Row] = {}
    for name in sorted(kept):
        totals = _read(new, name, None)
        totals_old.add(totals)
        totals_new.add(totals)
    for name in sorted(removed):
        totals_old.add(_read(old, name, rows_old))
    for name in sorted(new.shards.keys() - kept):
        totals_new.add(_read(new, name, rows_new))
    unknown = {md5: new.paths[name] for name, md5 in new.shards.items() if md5 not in set(old.shards.values())}
    diff = DataDiff(
        before=before.digest,
        after=after.digest,
        info=list(_info_changes(old.info, new.info)),
        shards={"kept": sorted(kept), "added": sorted(new.shards.keys() - kept), "removed": sorted(removed)},
        bytes_to_fetch=sum(path.stat().st_size for path in unknown.values()),
        splits={split: _split_diff(split, totals_old, totals_new) for split in SPLITS},
        labels={
            label: Pair(before=totals_old.labels[label], after=totals_new.labels[label])
            for label in dict.fromkeys([*new.info.labels, *old.info.labels, *totals_old.labels, *totals_new.labels])
        },
        speakers_added=sorted(totals_new.speakers - totals_old.speakers),
        speakers_removed=sorted(totals_old.speakers - totals_new.speakers),
        unmeasured=totals_new.unmeasured,
    )
    _compare(rows_old, rows_new, diff)
    return diff


def _read(version: _Version, name: str, rows: dict[_Key, _Row] | None) -> _Totals:
    """The totals of a shard; adds its rows to ``rows`` unless that is None."""
    try:
        return _read_shard(version.paths[name], name, version.info.kinds, rows)
    except DataError as error:
        reason = str(error).replace(version.paths[name].name, "the shard")  # in the cache a file is named by its digest
        raise DataError(f"version {version.digest}, {name}: {reason}") from error


def _read_shard(path: Path, name: str, kinds: Mapping[str, str], rows: dict[_Key, _Row] | None) -> _Totals:
    split = split_of(name)
    assert split is not None
    totals = _Totals(dialogues={split: set()}, seconds={split: []})
    for utterance in read_utterances([path], modalities=kinds):
        totals.rows[split] += 1
        totals.labels[_label(utterance)] += 1
        totals.dialogues[split].add(str(utterance.dialogue_id))
        if utterance.speaker:
            totals.speakers.add(utterance.speaker)
        if utterance.audio:
            seconds = _seconds(utterance.audio)
            if seconds is None:
                totals.unmeasured += 1
            else:
                totals.seconds[split].append(seconds)
        if rows is not None:
            key = (split, str(utterance.dialogue_id), -1 if utterance.turn is None else utterance.turn)
            text, audio = (utterance.text or "").encode(), utterance.audio or b""
            others = {other: kind_of(kinds[other]).digest(cell) for other, cell in utterance.others.items()}
            rows[key] = _Row(
                _label(utterance), utterance.role, utterance.language, _digest(text), _digest(audio), others
            )
    return totals


def _label(utterance: Utterance) -> str:
    return UNLABELLED if utterance.label is None else str(utterance.label)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _seconds(audio: bytes) -> float | None:
    try:
        return extent(audio).seconds
    except AudioError:
        return None


def _info_changes(old: DatasetInfo, new: DatasetInfo) -> Iterator[str]:
    for name in DatasetInfo.model_fields:
        was, now = getattr(old, name), getattr(new, name)
        if was != now:
            yield f"{name}: {_shown(was)} -> {_shown(now)}"


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {kind}" for name, kind in value.items()) or "none"
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def _split_diff(split: str, old: _Totals, new: _Totals) -> SplitDiff:
    def pair(figure: str) -> Pair:
        return Pair(before=_figure(old, split, figure), after=_figure(new, split, figure))

    return SplitDiff.model_validate({figure: pair(figure) for figure in SplitDiff.model_fields})


def _figure(totals: _Totals, split: str, figure: str) -> float:
    seconds = totals.seconds.get(split, [])
    if figure == "utterances":
        return totals.rows[split]
    if figure == "dialogues":
        return len(totals.dialogues.get(split, ()))
    if figure == "minutes":
        return round(sum(seconds) / 60, 2)
    return round(median(seconds), 3) if seconds else 0.0


def _compare(old: Mapping[_Key, _Row], new: Mapping[_Key, _Row], diff: DataDiff) -> None:
    relabelled: Counter[str] = Counter()
    removed = {key[1:]: key for key in old if key not in new}
    moved_from: set[_Key] = set()
    for key, row in new.items():
        earlier = key if key in old else removed.pop(key[1:], None)
        if earlier is None:
            diff.added.add(_location(key))
            continue
        was = old[earlier]
        if earlier != key:
            moved_from.add(earlier)
            diff.moved.add(f"{_location(key)} (was in {earlier[0]})")
        if was.text != row.text:
            diff.text.add(_location(key))
        if was.audio != row.audio:
            diff.audio.add(_location(key))
        for other in sorted(was.others.keys() | row.others.keys()):
            if was.others.get(other) != row.others.get(other):
                diff.others.setdefault(other, Rows()).add(_location(key))
        if was.label != row.label:
            diff.label.add(f"{_location(key)} ({was.label} -> {row.label})")
            relabelled[f"{was.label} -> {row.label}"] += 1
        if was.role != row.role:
            diff.role.add(f"{_location(key)} ({was.role or 'none'} -> {row.role or 'none'})")
        if was.language != row.language:
            diff.language.add(f"{_location(key)} ({was.language or 'none'} -> {row.language or 'none'})")
    for key in sorted(old.keys() - new.keys() - moved_from):
        diff.removed.add(_location(key))
    diff.relabelled = dict(relabelled.most_common())


def _location(key: _Key) -> str:
    return f"{key[0]}/{key[1]}/turn {key[2]}"
