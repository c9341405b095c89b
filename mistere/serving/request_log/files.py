"""The files of the log in the store: ``requests/until-DAY/HOUR/REPLICA-PART.jsonl.gz``, JSON lines.

The day in the name says how long a file is kept, so that a sweep opens none. ``requests/hashing-key`` makes the hashes of ids.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Final

from pydantic import ValidationError

from mistere.artifacts.object_store import ConflictError, MissingObjectError, ObjectStore
from mistere.common.errors import ArtifactError, MistereError
from mistere.common.parsing.documents import ParseError
from mistere.serving.request_log.line import LoggedRequest, logged_hash
from mistere.serving.sample.places import DAY_SECONDS, day_of, hashing_key
from mistere.serving.traffic.deletion import delete_each
from mistere.serving.traffic.files import HOUR_SECONDS, hour_name, hour_of

PREFIX: Final = "requests"
HASHING_KEY: Final = f"{PREFIX}/hashing-key"
PART_BYTES: Final = 8 << 20
"""JSON of a file, unless a single line is longer."""
_MOST_BYTES: Final = 64 << 20
_KEY: Final = re.compile(
    rf"{PREFIX}/until-(?P<until>\d{{4}}-\d{{2}}-\d{{2}})/(?P<hour>\d{{4}}-\d{{2}}-\d{{2}}T\d{{2}})/[A-Za-z0-9._-]{{1,128}}\.jsonl\.gz"
)
_MOST_ATTEMPTS: Final = 5
_GZIP: Final = 16 + zlib.MAX_WBITS


def log_key(hour: int, days: int, replica: str, part: int) -> str:
    """The key of a file.

    Args:
        hour: of its requests, counted since 1970.
        days: how long it is kept after them, days.
        replica: the process that writes it.
        part: its number among the process's files.
    """
    until = day_of((hour + 1) * HOUR_SECONDS + days * DAY_SECONDS)
    return f"{PREFIX}/until-{until}/{hour_name(hour)}/{replica}-{part:06d}.jsonl.gz"


def log_file(lines: Iterable[str]) -> bytes:
    """The content of a file.

    Args:
        lines: JSON.
    """
    return gzip.compress("".join(f"{line}\n" for line in lines).encode(), compresslevel=6, mtime=0)


def _json_lines(content: bytes) -> list[bytes]:
    """The lines of a file.

    Raises:
        ParseError: it is not such a file.
    """
    decoder = zlib.decompressobj(_GZIP)
    try:
        text = decoder.decompress(content, _MOST_BYTES + 1)
    except zlib.error as error:
        raise ParseError("it is not compressed by gzip") from error
    if len(text) > _MOST_BYTES:
        raise ParseError(f"it has more than {_MOST_BYTES} bytes")
    if not decoder.eof:
        raise ParseError("its end is missing")
    return text.splitlines()


def read_lines(content: bytes) -> list[LoggedRequest]:
    """Read a file.

    Raises:
        ParseError: it is not such a file.
    """
    return _requests(_json_lines(content))


def _requests(lines: Iterable[bytes]) -> list[LoggedRequest]:
    try:
        return [LoggedRequest.model_validate_json(line) for line in lines]
    except ValidationError as error:
        raise ParseError("a line is none of the log") from error


def read_log(store: ObjectStore, since: float, until: float, note: Callable[[str], object]) -> Iterator[LoggedRequest]:
    """The requests of a window, hour by hour, those of an hour in no order.

    Args:
        store: the object store.
        since: seconds since 1970; the whole hour of this moment is read.
        until: likewise.
        note: receives a sentence for each file that cannot be read, which is left out.
    """
    hours = range(int(since // HOUR_SECONDS), int(until // HOUR_SECONDS) + 1)
    for hour, _, key in sorted(_files(store)):
        if hour not in hours:
            continue
        try:
            yield from read_lines(store.read(key)[0])
        except MissingObjectError:  # swept meanwhile
            continue
        except ParseError as error:
            note(f"{store.location(key)} is left out: {error}")


def _files(store: ObjectStore) -> Iterator[tuple[int, str, str]]:
    """Hour, last day and key of each file of the log; what else lies there is ignored."""
    for key in store.keys(PREFIX):
        match = _KEY.fullmatch(key)
        if match is not None:
            try:
                yield hour_of(match["hour"]), match["until"], key
            except ValueError:  # the 31st of February
                continue


def delete_requests(store: ObjectStore, dialogue_id: str) -> int:
    """Delete the lines of a dialogue, file by file; what was interrupted is completed by the next call.

    Args:
        store: the object store.
        dialogue_id: the client's.

    Returns:
        How many lines were deleted.

    Raises:
        MistereError: the first failure of several, after the lines in all other files were deleted.
    """
    key = hashing_key(store, place=HASHING_KEY)
    if key is None or not dialogue_id:
        return 0
    wanted = logged_hash(key, dialogue_id)
    deleted, failures = 0, list[MistereError]()
    for name in sorted(name for _, _, name in _files(store)):
        try:
            deleted += _delete_from(store, name, wanted)
        except MistereError as error:
            failures.append(error)
    if failures:
        raise failures[0]
    return deleted


def _delete_from(store: ObjectStore, name: str, wanted: str) -> int:
    """Delete the lines with the hash of a dialogue from a file, unless another process changes it again and again."""
    for _ in range(_MOST_ATTEMPTS):
        try:
            content, version = store.read(name)
            lines = _json_lines(content)
            suspected = [line for line in lines if wanted.encode() in line]
            of_it = {
                line
                for line, request in zip(suspected, _requests(suspected), strict=True)
                if request.dialogue == wanted
            }
        except MissingObjectError:  # swept meanwhile
            return 0
        except ParseError as error:
            raise ArtifactError(
                f"{store.location(name)} may have requests of the dialogue, and cannot be read ({error})", "delete it"
            ) from error
        if not of_it:
            return 0
        others = [line.decode() for line in lines if line not in of_it]
        with suppress(ConflictError):  # another dialogue was deleted from it meanwhile
            if others:
                store.write(name, log_file(others), expected=version)
            else:
                store.delete_object(name)
            return len(lines) - len(others)
    raise ArtifactError(f"{store.location(name)} is changed by other processes again and again", "delete again later")


def sweep_log(store: ObjectStore, now: float) -> int:
    """Delete the files whose last day has passed; returns how many they were.

    Args:
        store: the object store.
        now: seconds since 1970.

    Raises:
        MistereError: one of them cannot be deleted; the others are.
    """
    today = day_of(now)
    expired = [(until, key) for _, until, key in _files(store) if until < today]
    deleted = delete_each(store.delete_object, (key for _, key in expired))
    delete_each(store.delete, sorted({f"{PREFIX}/until-{until}" for until, _ in expired}))  # and the empty folders
    return deleted
