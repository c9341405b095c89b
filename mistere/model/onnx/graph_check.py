"""Checks of a graph's file before a runtime reads it: a file may come from a stranger.

A graph may name further files that hold its weights, by any path; and loops could run forever. Ours have neither, so a graph with
either is refused. The file is a protocol buffer (onnx/onnx.proto). Only the few fields that matter are read here, in place, so that
serving needs neither the package ``onnx`` nor a second copy of the weights.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mistere.common.errors import ArtifactError

MAX_GRAPH_BYTES: Final = 2**31 - 1
"""The largest protocol buffer."""
_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_ATTRIBUTE, _NODE_DOMAIN = 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES = 22, 23
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
_MAX_KEY: Final = 2**32 - 1
"""Runtimes read 32 bits of a field's key: a larger one would be another field to them than it is here."""
_MAX_NUMBER: Final = 2**64 - 1
_DOMAINS: Final = (b"", b"ai.onnx", b"com.microsoft", b"ai.onnx.ml")


def check_graph(path: Path) -> None:
    """Refuse a graph that refers to other files, holds a graph of its own (loops), or is no ONNX file.

    Raises:
        ArtifactError: the file is refused; the message says why.
    """
    size = path.stat().st_size
    if not 0 < size <= MAX_GRAPH_BYTES:
        raise ArtifactError(f"{path} has {size} bytes, a graph has up to 2 GiB", _REMEDY)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            reason = _reason(content, size)
        except (IndexError, ValueError):
            reason = "is no ONNX file"
    if reason:
        raise ArtifactError(f"{path} {reason}", _REMEDY)


_REMEDY: Final = "export the model again with `mistere export`"


def _reason(content: mmap.mmap, size: int) -> str:
    """Why a model is refused, as the rest of a sentence; empty if it is not."""
    graphs = 0
    for number, start, end in _fields(content, 0, size):
        if number == _MODEL_FUNCTIONS:
            return "defines functions of its own"
        if number == _MODEL_GRAPH:
            graphs += 1
            if reason := _graph_reason(content, start, end):
                return reason
    return "" if graphs == 1 else "is no ONNX file"


def _graph_reason(content: mmap.mmap, start: int, end: int) -> str:
    for number, begin, stop in _fields(content, start, end):
        if number == _GRAPH_SPARSE:
            return "holds sparse weights"
        if number == _GRAPH_INITIALIZER and _is_external(content, begin, stop):
            return "refers to weights in another file"
        if number == _GRAPH_NODE and (reason := _node_reason(content, begin, stop)):
            return reason
    return ""


def _node_reason(content: mmap.mmap, start: int, end: int) -> str:
    for number, begin, stop in _fields(content, start, end):
        if number == _NODE_DOMAIN and content[begin:stop] not in _DOMAINS:
            return "has an operation of an unknown kind"
        if number != _NODE_ATTRIBUTE:
            continue
        for inner, first, last in _fields(content, begin, stop):
            if inner in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
                return "holds a loop or a branch"
            if inner in (_ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES):
                return "holds sparse weights"
            if inner in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS) and _is_external(content, first, last):
                return "refers to weights in another file"
    return ""


def _is_external(content: mmap.mmap, start: int, end: int) -> bool:
    """Whether a tensor lies in another file."""
    return any(
        number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and begin)
        for number, begin, _ in _fields(content, start, end)
    )


def _fields(content: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The fields of a message: number, and start and end of a field with a length; of a number its value and 0.

    Raises:
        ValueError: the bytes are no message.
    """
    while start < end:
        key, start = _varint(content, start, end)
        number, wire = key >> 3, key & 7
        if key > _MAX_KEY or not number:
            raise ValueError("a field has no possible number")
        if wire == 2:
            length, start = _varint(content, start, end)
            if length > end - start:
                raise ValueError("a field is longer than its message")
            yield number, start, start + length
            start += length
        elif wire == 0:
            value, start = _varint(content, start, end)
            yield number, value, 0
        elif wire in (1, 5):
            start += 8 if wire == 1 else 4
        else:
            raise ValueError("a field of an unknown form")
    if start != end:
        raise ValueError("a field is longer than its message")


def _varint(content: mmap.mmap, start: int, end: int) -> tuple[int, int]:
    """A number of at most 64 bits in its only short form, and where it ends."""
    value = shift = 0
    while start < end and shift < 70:
        byte = content[start]
        value |= (byte & 127) << shift
        start, shift = start + 1, shift + 7
        if byte < 128:
            if not byte and shift > 7:
                raise ValueError("a number is longer than it needs to be")
            if value > _MAX_NUMBER:
                break
            return value, start
    raise ValueError("a number has no end")
