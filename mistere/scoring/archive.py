"""An archive of dialogues to score: a dataset in our form whose labels are not needed, as a stream of turns.

A dialogue belongs to the shard in which it begins, although its last turns may be in the next one, so that every dialogue is scored
as a whole and each shard gives one file of results.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path

from pydantic import Field

from mistere.common.digests.files import digest_once
from mistere.common.errors import DataError, UsageError
from mistere.common.names import shown
from mistere.common.parsing.documents import ParseError
from mistere.common.parsing.parquet import open_parquet
from mistere.data.dataset import DatasetInfo, Utterance, load_info_as, read_batches, split_of
from mistere.data.dataset import read_utterances as read_rows
from mistere.data.dvc_remote import RemoteData
from mistere.data.shard_modalities import shard_modalities
from mistere.scoring.call_columns import ArchiveColumns

INFO_FILE = "dataset.yaml"
_SUFFIX = ".parquet"
_LAST_TURN = 2**31 - 1
"""The tables of results hold the number of a turn in 32 bits."""


class ArchiveInfo(DatasetInfo):
    """``dataset.yaml`` of an archive: nothing but its name is required, because nothing is trained or tested on it."""

    description: str = ""
    labels: list[str] = Field(default_factory=list)
    language: str = ""
    licence: str = ""
    splits: str = ""
    speaker_disjoint: bool = False


@dataclass(frozen=True, slots=True)
class ArchiveTurn:
    """A turn of the archive with the facts of its call.

    Attributes:
        utterance: the turn, without its speaker.
        time: when the call was, UTC without a zone; None if the row does not say.
        groups: the values of the group columns, in their order; None where there is none.
    """

    utterance: Utterance
    time: datetime | None = None
    groups: tuple[str | None, ...] = ()


@dataclass(frozen=True)
class ShardFacts:
    """The number of a shard's rows, and the modalities of which it may have a value."""

    rows: int
    modalities: frozenset[str]


@dataclass(frozen=True)
class Archive:
    """An opened archive.

    Attributes:
        info: its ``dataset.yaml``.
        digests: MD5 of each shard by name, in the order of the rows.
        folder: the folder that holds it; None for one in a DVC remote.
        remote: the version in a remote; None for a folder.
        home: folder of the dataset below a tracked folder, with a slash at its end.
        unread: further parquet files, which are no shards: in folders below, or with another spelling of the suffix.
    """

    info: ArchiveInfo
    digests: Mapping[str, str]
    folder: Path | None = None
    remote: RemoteData | None = None
    home: str = ""
    unread: Sequence[str] = ()
    _checked: set[str] = field(default_factory=set, compare=False)

    @property
    def shards(self) -> list[str]:
        """The names of the shards, in order."""
        return list(self.digests)

    @cached_property
    def digest(self) -> str:
        """Identifies the content: the shards with their names, and ``dataset.yaml`` as far as it is read."""
        content = hashlib.sha256(repr(sorted(self.info.kinds.items())).encode())
        content.update(repr(sorted(self.info.predict_roles)).encode())
        for name, md5 in self.digests.items():
            content.update(f"{name}\0{md5}\0".encode())
        return content.hexdigest()

    def path(self, shard: str) -> Path:
        """The path of a shard here; one of a remote is fetched, if the cache lacks it."""
        if self.folder is not None:
            return self.folder / shard
        assert self.remote is not None
        name = f"{self.home}{shard}"
        return self.remote.fetch({name: self.digests[shard]})[name]

    def facts(self, shard: str) -> ShardFacts:
        """What a shard's footer says.

        Raises:
            DataError: it is not readable, or lacks a column.
        """
        path = self.path(shard)
        try:
            with open_parquet(path) as file:
                names = set(file.schema_arrow.names)
                facts = ShardFacts(int(file.metadata.num_rows), shard_modalities(file.metadata, self.info.kinds))
        except (ParseError, OSError) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise DataError(
                f"{shard} is not readable parquet ({str(error).splitlines()[0]}): write it again, or take it out of the dataset."
            ) from error
        for name in ("dialogue_id", "turn"):
            if name not in names:
                raise DataError(f"{shard} lacks the column {name!r}: every turn of an archive needs one.")
        return facts

    def turns(self, shard: str, columns: ArchiveColumns, modalities: Sequence[str]) -> Iterator[ArchiveTurn]:
        """The turns of the dialogues that begin in a shard, in order.

        Args:
            shard: the shard.
            columns: the columns with the facts of calls.
            modalities: the modalities to read.

        Raises:
            DataError: a shard is unreadable, a column is of another type, or the turns of a dialogue are not in order.
        """
        kinds = {name: kind for name, kind in self.info.kinds.items() if name in modalities}
        position = self.shards.index(shard)
        begun_before = self._last_dialogue(position - 1) if position else None
        order, seen = DialogueOrder(), {begun_before}
        for row, turn in enumerate(self._rows(shard, columns, kinds)):
            name = turn.utterance.dialogue_id
            if order.add(shard, name, turn.utterance.turn):
                if row and name in seen:
                    raise turns_apart(shard, name)
                seen.add(name)
            if name != begun_before:
                yield turn
        if order.dialogue not in {None, begun_before}:
            yield from self._continuation(position + 1, order, columns, kinds)

    def _continuation(
        self, position: int, order: DialogueOrder, columns: ArchiveColumns, kinds: Mapping[str, str]
    ) -> Iterator[ArchiveTurn]:
        """The turns of a dialogue that go on in the next shards."""
        while position < len(self.shards) and goes_on(*self.shards[position - 1 : position + 1]):
            shard = self.shards[position]
            for turn in self._rows(shard, columns, kinds):
                if turn.utterance.dialogue_id != order.dialogue:
                    return
                order.add(shard, turn.utterance.dialogue_id, turn.utterance.turn)
                yield turn
            position += 1

    def _last_dialogue(self, position: int) -> str | None:
        """The dialogue of the last row of a shard, if the next one may go on with it."""
        if not goes_on(*self.shards[position : position + 2]):
            return None
        shard = self.shards[position]
        rows = self.facts(shard).rows
        if not rows:
            return self._last_dialogue(position - 1) if position else None
        batches = list(read_batches([self.path(shard)], ["dialogue_id"], rows=(rows - 1, rows)))
        return str(batches[-1].column("dialogue_id")[-1].as_py())

    def check_columns(self, shard: str, columns: ArchiveColumns) -> None:
        """Check once that a shard is readable and has the columns.

        Raises:
            DataError: it is not readable, or lacks a column of every archive.
            UsageError: it lacks one of ``columns``, or that one is of another type.
        """
        if shard not in self._checked:
            self.facts(shard)
            columns.check(self.path(shard), shard, self.info)
            self._checked.add(shard)

    def _rows(self, shard: str, columns: ArchiveColumns, kinds: Mapping[str, str]) -> Iterator[ArchiveTurn]:
        self.check_columns(shard, columns)
        path = self.path(shard)
        utterances = read_rows([path], modalities=kinds, labelled=False)
        for utterance, (time, groups) in zip(utterances, columns.read(path, shard), strict=True):
            yield ArchiveTurn(utterance, time, groups)


class DialogueOrder:
    """Checks, row by row, that the rows of each dialogue are sorted by turn, also where it goes on in the next shard.

    Attributes:
        dialogue: the dialogue of the last row; None before the first one.
    """

    def __init__(self) -> None:
        self.dialogue: str | None = None
        self._turn, self._shard = -1, ""

    def add(self, shard: str, dialogue: object, turn: object) -> bool:
        """Check the next row; returns whether a dialogue begins with it.

        Raises:
            DataError: it does not say where it belongs, or its turn does not follow the one before.
        """
        name, number = check_position(shard, dialogue, turn)
        begins = name != self.dialogue
        if not begins and number <= self._turn:
            other = "" if shard == self._shard else f" in {self._shard}"
            remedy = ", and give every dialogue an id of its own" if other else ""
            raise DataError(
                f"{shard}: turn {number} of dialogue {shown(name)} follows turn {self._turn}{other}: sort the rows of each dialogue by "
                f"turn{remedy}."
            )
        self.dialogue, self._turn, self._shard = name, number, shard
        return begins


def goes_on(shard: str, following: str) -> bool:
    """Whether a dialogue at the end of a shard may go on in the one that follows: those of another split do not, any others do."""
    return split_of(shard) == split_of(following)


def check_position(shard: str, dialogue: object, turn: object) -> tuple[str, int]:
    """Check the dialogue and the turn that a row says it is of.

    Raises:
        DataError: they are no text and no number from 0 on.
    """
    if isinstance(dialogue, str) and dialogue and type(turn) is int and 0 <= turn <= _LAST_TURN:
        return dialogue, turn
    raise DataError(
        f"{shard}: a row has dialogue_id {shown(dialogue)} and turn {shown(turn)}: write a text, and a number from 0 to {_LAST_TURN}, "
        "into every row."
    )


def turns_apart(shard: str, dialogue: str, earlier: str = "") -> DataError:
    """The error for a dialogue whose rows do not follow one another; others are in an ``earlier`` shard."""
    where = f", others are in {earlier}" if earlier and earlier != shard else ""
    return DataError(
        f"{shard}: the turns of dialogue {shown(dialogue)} are apart{where}: write the rows of each dialogue one after the other, and give every "
        "dialogue an id of its own."
    )


def open_archive(location: str, digest: str = "") -> Archive:
    """Open an archive.

    Args:
        location: its folder, or the DVC remote that holds it.
        digest: its DVC digest in the remote; empty for a folder.

    Raises:
        UsageError: it is no dataset, or has no shard.
        DataError: ``dataset.yaml`` is invalid.
    """
    folder = Path(location)
    if not digest or (folder / INFO_FILE).is_file():
        info = load_info_as(ArchiveInfo, folder / INFO_FILE)
        paths = sorted(path for path in folder.iterdir() if path.suffix == _SUFFIX and path.is_file())
        _require(bool(paths), str(folder))
        digests = {path.name: digest_once(path, "md5") for path in paths}
        return Archive(info, digests, folder, unread=_unread(_files_below(folder), digests))
    data = RemoteData(location, digest)
    listing = data.listing()
    homes = [name.removesuffix(INFO_FILE) for name in listing if name.rsplit("/", 1)[-1] == INFO_FILE]
    if len(homes) != 1:
        raise UsageError(
            f"the tracked folder must hold exactly one {INFO_FILE} beside its shards (found: {len(homes)})."
        )
    home = homes[0]
    names = {name[len(home) :]: md5 for name, md5 in listing.items() if name.startswith(home)}
    shards = {name: names[name] for name in sorted(names) if name.endswith(_SUFFIX) and "/" not in name}
    _require(bool(shards), f"the dataset {digest[:12]}")
    file = data.fetch({f"{home}{INFO_FILE}": names[INFO_FILE]})[f"{home}{INFO_FILE}"]
    return Archive(
        load_info_as(ArchiveInfo, file, INFO_FILE), shards, remote=data, home=home, unread=_unread(names, shards)
    )


def _files_below(folder: Path) -> Iterator[str]:
    """The files of a folder and of those below that are no datasets or results of their own, as relative names."""
    for path, folders, files in os.walk(folder):
        if Path(path) != folder and not {INFO_FILE, "plan.json"}.isdisjoint(files):
            folders.clear()
            continue
        yield from ((Path(path) / name).relative_to(folder).as_posix() for name in files)


def _unread(names: Iterable[str], shards: Collection[str]) -> list[str]:
    return sorted(
        name
        for name in names
        if name.lower().endswith(_SUFFIX)
        and name not in shards
        and not any(part.startswith(".") for part in name.split("/"))
    )


def _require(has_shards: bool, name: str) -> None:
    if not has_shards:
        raise DataError(f"{name} holds no *.parquet beside {INFO_FILE}: there is nothing to score.")
