"""Checks of names that come from outside, before they become paths, keys or lines of a configuration file.

DVC listings, manifests, tables, object keys, run ids and damaged or forged records all hold names. Such a name becomes a path
through :func:`path_below` only, and a key of the object store through :func:`check_name`, which the stores call themselves.
Models whose fields are part of a path declare them as :data:`Segment`, :data:`RelativeName`, :data:`Md5` or :data:`OneLine`.
"""

from __future__ import annotations

import re
import reprlib
import unicodedata
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator

from mistere.common.errors import DataError, MistereError

AFFECTS_RESULTS = False
"""A name is accepted unchanged or refused."""

MAX_SEGMENT_BYTES: Final = 255
"""The longest file name of Linux's file systems."""
MAX_NAME_BYTES: Final = 1024
"""The longest key of S3."""

_DRIVE = re.compile(r"[A-Za-z]:")
_MD5 = re.compile(r"[0-9a-f]{32}")
_SHOWN = 200
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = _SHOWN

_TURNS: Final = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
"""Bidirectional classes of the characters that turn the direction of the text after them."""


def problem(name: object) -> str:
    """Why a name cannot be a relative path below a folder; empty if it can.

    A name is a POSIX path of segments joined by ``/``. Windows' spellings are refused too, because a store or a dataset may be
    copied to another system.
    """
    if not isinstance(name, str):
        return f"is {type(name).__name__}, not text"
    if not name:
        return "is empty"
    if has_control_character(name):
        return "holds a control character"
    if name.startswith(("/", "~")) or _DRIVE.match(name):
        return "is not relative"
    if "\\" in name:
        return "holds a backslash"
    segments = name.split("/")
    if ".." in segments:
        return "leaves its folder by `..`"
    if "" in segments or "." in segments:
        return "has an empty segment or `.`"
    if len(name.encode()) > MAX_NAME_BYTES or any(len(part.encode()) > MAX_SEGMENT_BYTES for part in segments):
        return "is too long"
    return ""


def check_name(name: str, what: str, error: type[MistereError], remedy: str = "correct it where it was written") -> str:
    """Return a relative name unchanged.

    Args:
        name: the name.
        what: what holds it, as the subject of the error.
        error: the error to raise; its class decides the exit code.
        remedy: what the user can do.

    Raises:
        MistereError: of the given class; the name is no relative path.
    """
    if reason := problem(name):
        raise error(f"{what} names {shown(name)}, which {reason}: {remedy}.")
    return name


def path_below(
    folder: Path, name: str, what: str, error: type[MistereError], remedy: str = "correct it where it was written"
) -> Path:
    """The path of a name below a folder, which must not lead out of it, not through a symbolic link either.

    Args:
        folder: the folder.
        name: a relative name.
        what: what holds the name, as the subject of the error.
        error: the error to raise; its class decides the exit code.
        remedy: what the user can do.

    Raises:
        MistereError: of the given class; the name leads out of the folder, or the path cannot be looked up.
    """
    path = folder / check_name(name, what, error, remedy)
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError) as failure:  # a loop of links, a path that is too long
        raise error(f"{what} names {shown(name)}, which cannot be looked up ({failure}): {remedy}.") from failure
    if not inside:
        raise error(f"{what} names {shown(name)}, which is a link that leads out of {folder}: {remedy}.")
    return path


def check_md5(digest: object, what: str) -> str:
    """Return an MD5 of a dataset's file unchanged; DVC stores the file under a path made of it.

    Raises:
        DataError: it is not 32 lower-case hexadecimal digits.
    """
    if not isinstance(digest, str) or not _MD5.fullmatch(digest):
        raise DataError(
            f"{what} has the MD5 {shown(digest)}, not 32 hexadecimal digits: track the data again with `dvc add`."
        )
    return digest


def shown(name: object) -> str:
    """A name or value as error messages quote it: escaped, and shortened."""
    text = repr(name[: _SHOWN + 1]) if isinstance(name, str) else _SHORT.repr(name)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def has_control_character(text: str) -> bool:
    """Whether a text holds a control character or half of a surrogate pair."""
    return any(unicodedata.category(character) in {"Cc", "Cs"} for character in text)


def terminal_text(text: str) -> str:
    """A text of unknown origin on one line of a terminal, with ``?`` for what would control it, turn its direction, or is no UTF-8."""
    return text if text.isprintable() else "".join("?" if _controls(letter) else letter for letter in text)


def _controls(character: str) -> bool:
    return unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} or unicodedata.bidirectional(character) in _TURNS


def _relative(name: str) -> str:
    if reason := problem(name):
        raise ValueError(f"{shown(name)} {reason}")
    return name


def _segment(name: str) -> str:
    if name and ("/" in name or name.startswith("-")):
        raise ValueError(f"{shown(name)} is not a single name")
    return _relative(name) if name else name


def _md5(digest: str) -> str:
    if not _MD5.fullmatch(digest):
        raise ValueError(f"{shown(digest)} is not 32 hexadecimal digits")
    return digest


def _one_line(text: str) -> str:
    if has_control_character(text):
        raise ValueError(f"{shown(text)} holds a control character")
    return text


RelativeName = Annotated[str, AfterValidator(lambda name: name and _relative(name))]
"""A field that holds a relative path; may be empty."""
Segment = Annotated[str, AfterValidator(_segment)]
"""A field that becomes one segment of a path or an argument of a command (a digest, a run id, a service); may be empty."""
Md5 = Annotated[str, AfterValidator(_md5)]
"""A field that holds the MD5 of a dataset's file."""
OneLine = Annotated[str, AfterValidator(_one_line)]
"""A field that becomes a line of a configuration file, such as the URL of a remote."""
