"""Read the data of a pickle without running it.

A pickle is a program: the standard library calls whatever it names. This reader interprets the opcodes itself and builds plain
values alone: numpy arrays of numbers and texts, dicts, lists, texts, bytes and numbers. It imports nothing and calls nothing that
the file names; a file that needs anything else is refused. An array takes no more memory than its bytes in the file.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from mistere.common.errors import DataError, UsageError

MAX_VALUES: Final = 50_000_000
"""Opcodes of one file."""
MAX_NODES: Final = 2_000_000
"""Values of the result, each shared one counted wherever it stands."""
_MAX_DEPTH: Final = 32
MAX_BYTES: Final = 8 * 2**30
_PLAIN_TYPES: Final = frozenset("?bBiufcSUV") - {"V", "c"}


class _Refused(Exception):  # noqa: N818  (a reason, which becomes the error of a sentence)
    """Why a pickle is not read: a clause."""


@dataclass(frozen=True, slots=True)
class _Name:
    """Something that the file refers to by module and name."""

    text: str


@dataclass(slots=True)
class _Type:
    """A numpy type, whose byte order follows in its state."""

    code: str
    order: str = "="

    def dtype(self) -> np.dtype[Any]:
        """The type."""
        return np.dtype(f"{self.order}{self.code}") if self.code != "O" else np.dtype(object)


@dataclass(slots=True)
class _Array:
    """An array, whose content follows in its state."""

    value: Any = field(default_factory=list)


_MULTIARRAY: Final = ("numpy.core.multiarray", "numpy._core.multiarray")
_RECONSTRUCT: Final = frozenset(f"{module} _reconstruct" for module in _MULTIARRAY)
_SCALAR: Final = frozenset(f"{module} scalar" for module in _MULTIARRAY)
_FROM_BUFFER: Final = frozenset({"numpy.core.numeric _frombuffer", "numpy._core.numeric _frombuffer"})
_DICTS: Final = frozenset({"collections OrderedDict", "collections defaultdict"})
_FACTORIES: Final = frozenset(
    f"{module} {name}" for module in ("builtins", "__builtin__") for name in ("list", "dict", "int", "float")
)
_BYTES: Final = frozenset(
    f"{module} {name}" for module in ("builtins", "__builtin__") for name in ("bytes", "bytearray")
)
_HARMLESS: Final = (
    _RECONSTRUCT
    | _SCALAR
    | _FROM_BUFFER
    | _DICTS
    | _FACTORIES
    | _BYTES
    | {"numpy ndarray", "numpy dtype", "_codecs encode"}
)


def read_pickle(path: Path) -> Any:
    """The value in a pickle, made of dicts, lists, arrays, texts, bytes and numbers; tuples become lists.

    Raises:
        UsageError: the file is missing.
        DataError: it is no pickle, is too large, or holds anything else than plain data.
    """
    if not path.is_file():
        raise UsageError(f"{path} is missing or no file: name the pickle.")
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path} is larger than {MAX_BYTES // 2**30} GiB: split it where it was written.")
    try:
        with path.open("rb") as file:
            return _Machine().run(file)
    except _Refused as error:
        raise DataError(
            f"{path} {error}: only dicts, lists, numpy arrays, texts and numbers are converted; write those alone."
        ) from error
    except (ValueError, LookupError, TypeError, OverflowError, MemoryError, RecursionError, OSError) as error:
        raise DataError(f"{path} is no pickle, or is damaged ({type(error).__name__}): fetch it again.") from error


class _Machine:
    """The stack and the memo of one pickle."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._operations: dict[str, Callable[[Any], None]] = self._table()

    def run(self, file: Any) -> Any:
        """Interpret the opcodes until the end."""
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count > MAX_VALUES:
                raise _Refused(f"holds more than {MAX_VALUES} values")
            if opcode.name == "STOP":
                return _Plain().of(self._stack.pop())
            operation = self._operations.get(opcode.name)
            if operation is None:
                raise _Refused(f"uses the operation {opcode.name}")
            operation(argument)
        raise ValueError("no end")

    def _table(self) -> dict[str, Callable[[Any], None]]:
        push = self._stack.append
        literals = (
            *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
            *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
            *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        )
        return {
            **dict.fromkeys(literals, push),
            "NONE": lambda _: push(None),
            "NEWTRUE": lambda _: push(True),
            "NEWFALSE": lambda _: push(False),
            **dict.fromkeys(("PROTO", "FRAME"), lambda _: None),
            "MARK": lambda _: self._marks.append(len(self._stack)),
            "EMPTY_LIST": lambda _: push([]),
            "EMPTY_TUPLE": lambda _: push([]),
            "EMPTY_DICT": lambda _: push({}),
            "LIST": lambda _: push(self._marked()),
            "TUPLE": lambda _: push(self._marked()),
            "TUPLE1": lambda _: push(self._pop(1)),
            "TUPLE2": lambda _: push(self._pop(2)),
            "TUPLE3": lambda _: push(self._pop(3)),
            "DICT": lambda _: push(_dict({}, self._marked())),
            "APPEND": lambda _: self._extend(self._pop(1)),
            "APPENDS": lambda _: self._extend(self._marked()),
            "SETITEM": lambda _: self._set(self._pop(2)),
            "SETITEMS": lambda _: self._set(self._marked()),
            "POP": lambda _: self._stack.pop() and None,
            "DUP": lambda _: push(self._stack[-1]),
            "GLOBAL": lambda argument: push(_known(argument)),
            "STACK_GLOBAL": lambda _: push(_known(" ".join(map(str, self._pop(2))))),
            "REDUCE": lambda _: push(_called(*self._pop(2))),
            "BUILD": lambda _: self._build(self._stack.pop()),
            **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda number: push(self._memo[number])),
            **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), self._remember),
            "MEMOIZE": lambda _: self._remember(len(self._memo)),
        }

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise ValueError("the stack is empty")
        items = self._stack[-count:]
        del self._stack[-count:]
        return items

    def _marked(self) -> list[Any]:
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items

    def _remember(self, number: int) -> None:
        self._memo[int(number)] = self._stack[-1]

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise ValueError("no list")
        self._stack[-1].extend(items)

    def _set(self, items: list[Any]) -> None:
        _dict(self._stack[-1], items)

    def _build(self, state: Any) -> None:
        """Give a type its byte order, or an array its content."""
        target = self._stack[-1]
        if isinstance(target, _Type):
            order = state[1] if isinstance(state, list) and len(state) > 1 else "="
            target.order = order if order in ("<", ">") else "="
        elif isinstance(target, _Array) and isinstance(state, list) and len(state) == 5:
            _, shape, kind, fortran, data = state
            target.value = _array(data, kind, shape, bool(fortran))
        else:
            raise _Refused(f"sets the state of a {type(target).__name__.strip('_').lower()}")


def _known(name: str) -> _Name:
    if name not in _HARMLESS:
        raise _Refused(f"refers to {name.replace(' ', '.')[:80]!r}")
    return _Name(name)


def _called(function: Any, arguments: Any) -> Any:
    """What a call that arrays, types and dicts are stored as stands for; nothing is called."""
    if not isinstance(function, _Name) or not isinstance(arguments, list):
        raise _Refused("calls what it holds")
    name = function.text
    if name in _RECONSTRUCT:
        return _Array()
    if name == "numpy dtype":
        return _Type(_code(arguments[0]))
    if name in _SCALAR:
        return _array(arguments[1], arguments[0], [1], False).tolist()[0]
    if name in _FROM_BUFFER:
        data, kind, shape, *order = arguments
        return _array(data, kind, shape, order == ["F"])
    if name == "_codecs encode" and arguments[1:] in (["latin1"], ["latin-1"]):
        return str(arguments[0]).encode("latin-1")
    if name in _BYTES and all(isinstance(one, (str, bytes)) for one in arguments[:1]):
        return arguments[0].encode("latin-1") if arguments and isinstance(arguments[0], str) else b"".join(arguments)
    if name in _DICTS:
        return {}
    raise _Refused(f"calls {name.replace(' ', '.')!r}")


def _code(written: Any) -> str:
    """The code of a numpy type, such as ``f8``: one of numbers, texts, or ``O`` for a list of values."""
    text = written.decode("ascii") if isinstance(written, bytes) else str(written)
    kind = text[:1]
    if text[:1] in ("O", "b") and text in ("O", "O8", "b1", "bool"):
        return "O" if kind == "O" else "?"
    if kind not in _PLAIN_TYPES or not text[1:].isdecimal() or int(text[1:]) > 2**20:
        raise _Refused(f"holds arrays of the type {text[:20]!r}")
    return text


def _array(data: Any, kind: Any, shape: Any, fortran: bool) -> Any:
    """An array from its bytes, or a list from an array of objects."""
    if not isinstance(kind, _Type) or not all(isinstance(one, int) and one >= 0 for one in shape):
        raise ValueError("no array")
    if kind.code == "O":
        return list(data)
    raw = data.encode("latin-1") if isinstance(data, str) else bytes(data)  # Python 2 wrote bytes as text
    return np.frombuffer(raw, dtype=kind.dtype()).reshape(shape, order="F" if fortran else "C")


def _dict(target: Any, items: list[Any]) -> dict[Any, Any]:
    if not isinstance(target, dict) or len(items) % 2:
        raise ValueError("no dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        target[_plain_key(key)] = value
    return target


def _plain_key(key: Any) -> str | int | float:
    key = key.decode("utf-8", "replace") if isinstance(key, bytes) else key
    if not isinstance(key, (str, int, float)):
        raise _Refused("has keys that are neither texts nor numbers")
    return key


class _Plain:
    """Puts arrays in place of what stood for them, and counts."""

    def __init__(self) -> None:
        self._left = MAX_NODES

    def of(self, value: Any, depth: int = 0) -> Any:
        """The plain value."""
        self._left -= 1
        if depth > _MAX_DEPTH or self._left < 0:
            raise _Refused("refers to itself, or holds more values than its size allows")
        if isinstance(value, _Array):
            return self.of(value.value, depth + 1)
        if isinstance(value, dict):
            return {key: self.of(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list):
            return [self.of(item, depth + 1) for item in value]
        if isinstance(value, (_Name, _Type)):
            raise _Refused("holds a type or function")
        return value
