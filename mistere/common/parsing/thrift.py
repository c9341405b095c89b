"""Thrift's compact protocol, as far as parquet's footers and page headers need it.

See https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from mistere.common.parsing.documents import ParseError

AFFECTS_RESULTS = False
"""It reads sizes, to refuse a file; pyarrow reads the data."""

_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
_INTEGERS: Final = {4, 5, 6}
_INT32: Final = 5
_MAX_DEPTH: Final = 20


@dataclass
class Struct:
    """The fields of a struct that are kept, by their id.

    Attributes:
        integers: those of type i32. Parquet has no other in headers, and readers skip a field of another type than declared.
        structs: the structs in it.
    """

    integers: dict[int, int] = field(default_factory=dict)
    structs: dict[int, Struct] = field(default_factory=dict)


class CompactReader:
    """Reads structs from bytes.

    Attributes:
        position: where the next value begins.
    """

    def __init__(self, data: Any, position: int = 0) -> None:
        self._data = data
        self.position = position

    def struct(self, depth: int = 0) -> Struct:
        """The struct at the position.

        Raises:
            ParseError: the bytes end, or are nested too deeply.
        """
        result = Struct()
        for number, kind in self._fields(depth):
            if kind == _INT32:
                result.integers[number] = self._integer()
            elif kind == _STRUCT:
                result.structs[number] = self.struct(depth + 1)
            else:
                self._skip(kind, depth)
        return result

    def list_of_structs(self, wanted: int) -> Iterator[Struct]:
        """The elements of a field of the struct at the position that is a list of structs.

        Raises:
            ParseError: the bytes end, or the field is another type.
        """
        for number, kind in self._fields(0):
            if number != wanted:
                self._skip(kind, 0)
                continue
            size, element = self._list_header() if kind == _LIST else (0, 0)
            if element != _STRUCT:
                raise ParseError("its footer is damaged")
            for _ in range(size):
                yield self.struct(1)
            return

    def _fields(self, depth: int) -> Iterator[tuple[int, int]]:
        if depth > _MAX_DEPTH:
            raise ParseError("a header is nested too deeply")
        number = 0
        while head := self._byte():
            delta = head >> 4
            number = number + delta if delta else self._integer()
            yield number, head & 15

    def _skip(self, kind: int, depth: int) -> None:
        if kind in {_TRUE, _FALSE}:
            return
        if kind == _BYTE:
            self._byte()
        elif kind in _INTEGERS:
            self._integer()
        elif kind == _DOUBLE:
            self._advance(8)
        elif kind == _BINARY:
            self._advance(self._unsigned())
        elif kind in {_LIST, _SET}:
            size, element = self._list_header()
            for _ in range(size):
                self._skip_element(element, depth)
        elif kind == _MAP:
            size = self._unsigned()
            kinds = self._byte() if size else 0
            for _ in range(size):
                self._skip_element(kinds >> 4, depth)
                self._skip_element(kinds & 15, depth)
        elif kind == _STRUCT:
            self.struct(depth + 1)
        else:
            raise ParseError("a header is damaged")

    def _skip_element(self, kind: int, depth: int) -> None:
        """Skip an element of a collection, where a boolean takes a byte."""
        if depth > _MAX_DEPTH:
            raise ParseError("a header is nested too deeply")
        self._skip(_BYTE if kind in {_TRUE, _FALSE} else kind, depth + 1)

    def _list_header(self) -> tuple[int, int]:
        head = self._byte()
        return (self._unsigned() if head >> 4 == 15 else head >> 4), head & 15

    def _advance(self, size: int) -> None:
        self.position += size
        if self.position > len(self._data):  # a list states any number of elements
            raise ParseError("a header is cut off")

    def _byte(self) -> int:
        if not 0 <= self.position < len(self._data):
            raise ParseError("a header is cut off")
        value: int = self._data[self.position]
        self.position += 1
        return value

    def _unsigned(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ParseError("a header holds a number of more than 64 bits")

    def _integer(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)
