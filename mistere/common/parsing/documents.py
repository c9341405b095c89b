"""YAML and JSON from outside, with limits on size, depth and aliases.

A few hundred bytes of YAML can name billions of nodes by aliases of aliases, and a few kilobytes can be nested deeper than
Python's stack. Both loaders refuse such a document before it becomes an object; every module of the product uses them. Text that
pydantic parses itself (``model_validate_json``) has pydantic's own limit on depth.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import yaml

AFFECTS_RESULTS = False
"""A document is parsed as the libraries do, or refused."""

MAX_YAML_BYTES: Final = 4 * 2**20
MAX_JSON_BYTES: Final = 512 * 2**20
MAX_DEPTH: Final = 100
"""Lists and mappings inside each other."""
MAX_NODES: Final = 200_000
"""Values of a YAML document, each alias counted as all that it stands for."""
_TEXT_OF_A_NODE: Final = 100
"""Characters of text that count as one more value: an alias repeats them too wherever the document is printed."""
MAX_NUMBER: Final = 400
"""Characters of a number in YAML; Python converts longer ones in quadratic time."""


class ParseError(ValueError):
    """A document is not YAML or JSON, or exceeds a limit. The message is a clause of one line."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The safe loader, with a limit on the length of numbers."""


def _bounded(tag: str) -> None:
    construct = yaml.SafeLoader.yaml_constructors[tag]

    def checked(loader: Any, node: Any) -> Any:
        if len(node.value) > MAX_NUMBER:
            raise ParseError(f"line {node.start_mark.line + 1} has a number of {len(node.value)} characters")
        return construct(loader, node)

    _Loader.add_constructor(tag, checked)


for _tag in ("int", "float", "timestamp"):
    _bounded(f"tag:yaml.org,2002:{_tag}")


def load_yaml(content: str | bytes) -> Any:
    """Parse one YAML document.

    Args:
        content: the text, or its UTF-8 bytes.

    Raises:
        ParseError: it is not YAML, holds several documents, or exceeds a limit.
    """
    _check_size(content, MAX_YAML_BYTES)
    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
        _check_nodes(text)
        return yaml.load(text, Loader=_Loader)  # noqa: S506  # a subclass of the safe loader
    except ParseError:
        raise
    except RecursionError as error:
        raise ParseError(f"it is nested deeper than {MAX_DEPTH} levels") from error
    except (yaml.YAMLError, ValueError, OverflowError, LookupError, TypeError, AttributeError) as error:
        raise ParseError(first_line(error)) from error


def read_yaml(path: Path) -> Any:
    """Parse a YAML file; see :func:`load_yaml`.

    Raises:
        ParseError: it is not YAML, or exceeds a limit.
        OSError: it cannot be read.
    """
    return load_yaml(_read(path, MAX_YAML_BYTES))


def load_json(content: str | bytes, *, unique_keys: bool = False) -> Any:
    """Parse JSON.

    Args:
        content: the text, or its UTF-8 bytes.
        unique_keys: refuse an object with a key twice; otherwise the last value is used.

    Raises:
        ParseError: it is not JSON, exceeds a limit, or holds half of a surrogate pair, which no UTF-8 can hold; or a key is twice.
    """
    _check_size(content, MAX_JSON_BYTES)
    try:
        value = json.loads(content, object_pairs_hook=_unique if unique_keys else None)
    except RecursionError as error:
        raise ParseError(f"it is nested deeper than {MAX_DEPTH} levels") from error
    except ValueError as error:
        raise ParseError(first_line(error)) from error
    escapes = (b"\\ud", b"\\uD") if isinstance(content, bytes) else ("\\ud", "\\uD")
    _check_value(value, surrogates=any(escape in content for escape in escapes))  # type: ignore[operator]
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ParseError(f"an object has the key {name[:40]!r} twice")
        values[name] = value
    return values


def read_json(path: Path) -> Any:
    """Parse a JSON file; see :func:`load_json`.

    Raises:
        ParseError: it is not JSON, or exceeds a limit.
        OSError: it cannot be read.
    """
    return load_json(_read(path, MAX_JSON_BYTES))


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        return file.read(limit + 1)


def _check_size(content: str | bytes, limit: int) -> None:
    if len(content) > limit:
        raise ParseError(f"it is larger than {limit // 2**20} MiB")


def _check_nodes(text: str) -> None:
    """Count the nodes and their depth from the events of the parser, which needs no recursion."""
    counts, heights = [0], [0]  # of the open collections, the outermost first
    names: list[str | None] = [None]
    anchors: dict[str, tuple[int, int]] = {}
    total = 0
    for event in yaml.parse(text, Loader=_Loader):
        nodes, height = 0, 0
        if isinstance(event, yaml.CollectionStartEvent):
            counts.append(1)
            heights.append(0)
            names.append(event.anchor)
            total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            nodes, height, name = counts.pop(), heights.pop() + 1, names.pop()
            if name:
                anchors[name] = (nodes, height)
        elif isinstance(event, yaml.ScalarEvent):
            nodes = 1 + len(event.value) // _TEXT_OF_A_NODE
            total += nodes
            if event.anchor:
                anchors[event.anchor] = (nodes, 0)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor in names:
                raise ParseError(f"the alias {event.anchor!r} is inside of what it stands for")
            nodes, height = anchors.get(event.anchor or "", (1, 0))
            total += nodes
        counts[-1] += nodes
        heights[-1] = max(heights[-1], height)
        if len(counts) - 1 + height > MAX_DEPTH:
            raise ParseError(f"it is nested deeper than {MAX_DEPTH} levels")
        if total > MAX_NODES:
            raise ParseError(f"it holds more than {MAX_NODES} values, each alias counted as all that it stands for")


def _check_value(value: Any, surrogates: bool) -> None:
    """Check depth, and text if it may hold surrogates, level by level."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH + 1):
        if surrogates:
            for text in level:
                if isinstance(text, str) and not text.isascii():
                    _check_text(text)
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
                if surrogates:
                    below.extend(item)
            elif isinstance(item, list):
                below.extend(item)
        level = below
        if not level:
            return
    raise ParseError(f"it is nested deeper than {MAX_DEPTH} levels")


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ParseError("it holds half of a surrogate pair") from error


def first_line(error: Exception) -> str:
    """The first line of a library's error, for one sentence of ours."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200].rstrip(".")
