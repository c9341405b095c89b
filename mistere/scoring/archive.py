"""An archive of dialogues to score: a dataset in our form whose labels are not needed, as a stream of turns.

A dialogue belongs to the shard in which it begins, although its last turns may be in the next one, so that every dialogue is scored
as a whole and each shard gives one file of results.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from mistere.common.digests.files import digest_once
from mistere.common.errors import DataError, UsageError
from mistere.common.names import shown
from mistere.common.parsing.documents import ParseError
from mistere.common.parsing.parquet import open_parquet
from mistere.common.suggestions import did_you_mean
from mistere.config.scoring import SPEAKER
from mistere.data.dataset import OPTIONAL_COLUMNS, REQUIRED_COLUMNS, DatasetInfo, Utterance, load_info_as, read_batches
from mistere.data.dataset import read_utterances as read_rows
from mistere.data.dvc_remote import RemoteData
from mistere.data.kinds import kind_of
from mistere.data.shard_modalities import shard_modalities

if TYPE_CHECKING:
    import pyarrow as pa

INFO_FILE = "dataset.yaml"
NO_VALUE = "(none)"
"""The group of calls without a value in a column."""
_SUFFIX = ".parquet"
_LONGEST_VALUE = 80


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
    """

    info: ArchiveInfo
    digests: Mapping[str, str]
    folder: Path | None = None
    remote: RemoteData | None = None
    home: str = ""
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
        current: str | None = None
        last_turn, seen = -1, set[str]()
        for turn in self._rows(shard, columns, kinds):
            name, number = turn.utterance.dialogue_id, turn.utterance.turn
            if name == begun_before and current is None:
                continue
            if name != current:
                if name in seen:
                    raise turns_apart(shard, name)
                seen.add(name)
                current, last_turn = name, -1
            if number <= last_turn:
                raise DataError(
                    f"{shard}: turn {number} of dialogue {shown(name)} follows turn {last_turn}: sort the rows of each dialogue by turn."
                )
            last_turn = number
            yield turn
        if current is not None:
            yield from self._continuation(position + 1, current, columns, kinds)

    def _continuation(
        self, position: int, dialogue: str, columns: ArchiveColumns, kinds: Mapping[str, str]
    ) -> Iterator[ArchiveTurn]:
        """The turns of a dialogue that go on in the next shards."""
        while position < len(self.shards) and self._continues(position):
            for turn in self._rows(self.shards[position], columns, kinds):
                if turn.utterance.dialogue_id != dialogue:
                    return
                yield turn
            position += 1

    def _continues(self, position: int) -> bool:
        """Whether a shard goes on where the one before it ends; those of another split do not."""
        one, other = (self.shards[index].rpartition("-")[0] for index in (position - 1, position))
        return one == other

    def _last_dialogue(self, position: int) -> str | None:
        """The dialogue of the last row of a shard, if the next one may go on with it."""
        if not self._continues(position + 1):
            return None
        shard = self.shards[position]
        rows = self.facts(shard).rows
        if not rows:
            return self._last_dialogue(position - 1) if position else None
        batches = list(read_batches([self.path(shard)], ["dialogue_id"], rows=(rows - 1, rows)))
        return str(batches[-1].column("dialogue_id")[-1].as_py())

    def _rows(self, shard: str, columns: ArchiveColumns, kinds: Mapping[str, str]) -> Iterator[ArchiveTurn]:
        path = self.path(shard)
        if shard not in self._checked:
            self.facts(shard)
            columns.check(path, shard, self.info)
            self._checked.add(shard)
        utterances = read_rows([path], modalities=kinds, labelled=False)
        for utterance, (time, groups) in zip(utterances, columns.read(path, shard), strict=True):
            check_position(shard, utterance.dialogue_id, utterance.turn)
            yield ArchiveTurn(utterance, time, groups)


@dataclass(frozen=True)
class ArchiveColumns:
    """The columns with the facts of calls.

    Attributes:
        by: group columns.
        time: column of the time; empty for none.
    """

    by: tuple[str, ...] = ()
    time: str = ""

    def check(self, path: Path, shard: str, info: ArchiveInfo) -> None:
        """Refuse columns that a shard lacks, and those that hold the content of turns.

        Raises:
            UsageError: there is no such column, or it cannot be one of groups or of times.
        """
        wanted = [*self.by, *([self.time] if self.time else [])]
        if not wanted:
            return
        with open_parquet(path) as file:
            schema = file.schema_arrow
        taken = {*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS, SPEAKER}
        taken |= {kind_of(kind).column(name) for name, kind in info.kinds.items()}
        for name in wanted:
            if name in taken:
                raise UsageError(f"{name} is a column of turns, not of calls: name another one.")
            if name not in schema.names:
                others = [known for known in schema.names if known not in taken]
                raise UsageError(f"{shard} has no column {shown(name)}{did_you_mean(name, others)}")
        for name in self.by:
            if not _is_group(schema.field(name).type):
                raise UsageError(
                    f"the column {shown(name)} of {shard} is {schema.field(name).type}: name one of texts, whole numbers or truth values."
                )
        if self.time and not _is_time(schema.field(self.time).type):
            raise UsageError(
                f"the column {shown(self.time)} of {shard} is {schema.field(self.time).type}: name one of timestamps, dates, or texts "
                "like 2026-03-31T09:30:00."
            )

    def read(self, path: Path, shard: str) -> Iterator[tuple[datetime | None, tuple[str | None, ...]]]:
        """Time and groups of each row, in order."""
        wanted = [*self.by, *([self.time] if self.time else [])]
        for batch in read_batches([path], wanted or ["dialogue_id"]):
            values = [[_group(value) for value in batch.column(name).to_pylist()] for name in self.by]
            times = _times(batch.column(self.time), shard, self.time) if self.time else [None] * len(batch)
            groups = zip(*values, strict=True) if values else (() for _ in range(len(batch)))
            yield from zip(times, groups, strict=True)


def check_position(shard: str, dialogue: object, turn: object) -> None:
    """Check the dialogue and the turn that a row says it is of.

    Raises:
        DataError: they are no text and no number from 0 on.
    """
    if not isinstance(dialogue, str) or not dialogue or not isinstance(turn, int) or turn < 0:
        raise DataError(
            f"{shard}: a row has dialogue_id {shown(dialogue)} and turn {shown(turn)}: write a text, and a number from 0 on, into "
            "every row."
        )


def turns_apart(shard: str, dialogue: str) -> DataError:
    """The error for a dialogue whose rows do not follow one another."""
    return DataError(
        f"{shard}: the turns of dialogue {shown(dialogue)} are apart: write the rows of each dialogue one after the other."
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
        return Archive(info, {path.name: digest_once(path, "md5") for path in paths}, folder)
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
    return Archive(load_info_as(ArchiveInfo, file, INFO_FILE), shards, remote=data, home=home)


def _require(has_shards: bool, name: str) -> None:
    if not has_shards:
        raise DataError(f"{name} holds no *.parquet beside {INFO_FILE}: there is nothing to score.")


def _is_group(kind: pa.DataType) -> bool:
    from pyarrow import types

    plain = kind.value_type if types.is_dictionary(kind) else kind
    checks = (types.is_string, types.is_large_string, types.is_integer, types.is_boolean, types.is_null)
    return any(check(plain) for check in checks)


def _is_time(kind: pa.DataType) -> bool:
    from pyarrow import types

    checks = (types.is_timestamp, types.is_date, types.is_string, types.is_large_string, types.is_null)
    return any(check(kind) for check in checks)


def _group(value: Any) -> str | None:
    """A value as the name of a group, shortened, without control characters."""
    if value is None:
        return None
    text = "".join(letter if letter.isprintable() else " " for letter in str(value)).strip()
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"


def _times(column: pa.Array, shard: str, name: str) -> list[datetime | None]:
    import pyarrow as pa
    from pyarrow import types

    if types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    return [_time(value, shard, name) for value in column.to_pylist()]


def _time(value: Any, shard: str, name: str) -> datetime | None:
    """A value as UTC without a zone."""
    if value is None or value == "":
        return None
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        if isinstance(moment, date) and not isinstance(moment, datetime):
            moment = datetime(moment.year, moment.month, moment.day)
        if moment.tzinfo is not None:
            moment = moment.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError) as error:
        raise DataError(
            f"{shard}: {shown(value)} in the column {shown(name)} is no time: write it like 2026-03-31T09:30:00."
        ) from error
    assert isinstance(moment, datetime)
    return moment
