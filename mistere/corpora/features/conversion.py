"""Convert the features in a pickle to the npz file that ``--features`` reads.

The contents of a pickle are addressed by paths: the keys of dicts and the positions in lists, joined by ``/``. A pattern with ``*``
for one step selects several of them; names and vectors belong together where ``*`` stands for the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mistere.common.counting import counted
from mistere.common.errors import DataError, UsageError
from mistere.corpora.features.pickles import read_pickle
from mistere.corpora.features.sequences import checked_matrix

_MAX_ENTRIES: Final = 60
_TIMED_COLUMNS: Final = 3


def describe_pickle(source: Path) -> list[str]:
    """A line for each list and array of a pickle: its path and what it holds.

    Raises:
        DataError: as :func:`~mistere.corpora.features.pickles.read_pickle`.
    """
    lines = [f"{path or '.'}: {_kind(value)}" for path, value in _leaves(read_pickle(source))]
    more = len(lines) - _MAX_ENTRIES
    return lines[:_MAX_ENTRIES] + ([f"and {more} more"] if more > 0 else [])


def convert_pickle(source: Path, target: Path, names: str, vectors: str) -> str:
    """Write the vectors of a pickle with their utterances' names.

    Args:
        source: the pickle.
        target: the new ``.npz`` file; must not exist.
        names: pattern of the lists of names, such as ``*/id``; rows of three (video, start, end) are frames with times.
        vectors: pattern of the arrays, such as ``*/vision``: [N, D], or [N, T, D], whose frames are averaged, except those that
            pad with zeros.

    Returns:
        A sentence about what was written.

    Raises:
        UsageError: ``target`` exists, or a pattern selects nothing.
        DataError: as :func:`~mistere.corpora.features.pickles.read_pickle`, or names and vectors do not belong together.
    """
    if target.suffix != ".npz" or target.exists():
        raise UsageError(f"{target} {'exists' if target.exists() else 'is no .npz file'}: name a new .npz file.")
    leaves = dict(_leaves(read_pickle(source)))
    chosen = {
        option: _selected(leaves, option, pattern) for option, pattern in (("names", names), ("vectors", vectors))
    }
    if chosen["names"].keys() != chosen["vectors"].keys():
        raise UsageError(f"--names {names} and --vectors {vectors} do not select the same parts of {source}.")
    all_names: list[str] = []
    all_times: list[NDArray[np.float64]] = []
    matrices: list[NDArray[np.float32]] = []
    for part, path in chosen["names"].items():
        labels, times = _names(leaves[path], f"{source}: {path}")
        matrix = _vectors(leaves[chosen["vectors"][part]], f"{source}: {chosen['vectors'][part]}")
        if len(labels) != len(matrix):
            raise DataError(f"{source}: {path} has {len(labels)} names for {len(matrix)} vectors: select others.")
        all_names += labels
        all_times += [] if times is None else [times]
        matrices.append(matrix)
    if len({matrix.shape[1] for matrix in matrices}) > 1:
        raise DataError(f"{source}: the parts of --vectors {vectors} have different widths: select one of them.")
    arrays: dict[str, NDArray[Any]] = {"names": np.array(all_names), "vectors": np.concatenate(matrices)}
    if len(all_times) == len(matrices):
        start, end = np.concatenate(all_times).T
        arrays |= {"start": start, "end": end}
    _write(target, arrays)
    return f"{target}: {counted(len(all_names), 'vector')} of {counted(matrices[0].shape[1], 'number')}"


def _write(target: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write under a temporary name, and rename when complete."""
    partial = target.with_name(f".{target.name}.partial")
    try:
        with partial.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The arrays, and the lists of values of one kind, with their paths."""
    if isinstance(value, dict) or (isinstance(value, list) and not _is_leaf(value)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from _leaves(item, f"{path}/{key}" if path else str(key))
    elif isinstance(value, (list, np.ndarray)):
        yield path, value


def _is_leaf(items: list[Any]) -> bool:
    """Whether a list holds texts, numbers or vectors alone, rather than parts of their own."""
    plain = (str, bytes, int, float)
    if all(isinstance(item, plain) for item in items):
        return True
    if all(isinstance(item, np.ndarray) and item.ndim == 1 for item in items):
        return len({item.shape for item in items}) == 1
    return all(isinstance(item, list) and item and all(isinstance(one, plain) for one in item) for item in items)


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype.name} {list(value.shape)}"
    first = value[0] if value else None
    return f"list of {len(value)} {'arrays' if isinstance(first, np.ndarray) else type(first).__name__}"


def _selected(leaves: dict[str, Any], option: str, pattern: str) -> dict[tuple[str, ...], str]:
    """The selected paths, by what each ``*`` stands for."""
    steps = re.escape(pattern).replace(r"\*", "([^/]+)")
    found = {match.groups(): path for path in leaves if (match := re.fullmatch(steps, path))}
    if not found:
        raise UsageError(
            f"--{option} {pattern} selects nothing: run the command without --names and --vectors to list the contents."
        )
    return found


def _names(value: Any, where: str) -> tuple[list[str], NDArray[np.float64] | None]:
    """Names, and the start and end of each ``[N, 2]`` if they come in rows of three."""
    rows = [_row(item) for item in (value.tolist() if isinstance(value, np.ndarray) else value)]
    if not rows or len({len(row) for row in rows}) > 1 or len(rows[0]) not in (1, _TIMED_COLUMNS):
        raise DataError(f"{where} is no list of names, or of names with start and end: select another.")
    names = [row[0].replace("$_$", "_") for row in rows]
    if len(rows[0]) == 1:
        return names, None
    try:
        return names, np.array([[float(start), float(end)] for _, start, end in rows])
    except ValueError as error:
        raise DataError(f"{where} has a start or end that is no number of seconds: select another.") from error


def _row(item: Any) -> list[str]:
    items = item if isinstance(item, list) else [item]
    return [one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one) for one in items]


def _vectors(value: Any, where: str) -> NDArray[np.float32]:
    if isinstance(value, list) and value and isinstance(value[0], np.ndarray):
        value = np.stack(value)
    matrix = np.asarray(value) if not isinstance(value, np.ndarray) else value
    if matrix.ndim == 3 and matrix.dtype.kind in "fiu":
        finite = np.where(np.isfinite(matrix), matrix, 0).astype(np.float64)
        counts = (finite != 0).any(axis=2).sum(axis=1)  # the rest pads
        matrix = finite.sum(axis=1) / np.maximum(counts, 1)[:, None]
    return checked_matrix(matrix, where)
