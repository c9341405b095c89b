"""Read embeddings that were made outside the pipeline; the whole folder is validated before use.

A folder holds ``utterances.parquet`` (split, dialogue_id, turn, label as text or integer; extra columns are ignored) and a
row-aligned float32 matrix ``<modality>.npy`` for each modality, with a NaN row for an utterance that lacks it. A turn whose label is
null, or −1 if labels are integers, is context: the model reads it with its neighbours, and nothing counts it. Rows may be in any
order. Matrices are memory-mapped and checked in blocks: memory does not grow with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mistere.common.counting import counted
from mistere.common.errors import UsageError
from mistere.common.parsing.documents import ParseError
from mistere.common.parsing.parquet import open_parquet, read_parquet
from mistere.common.splits import SPLITS
from mistere.model.embeddings import UNLABELLED, UTTERANCES_FILE, EmbeddedDialogue, EmbeddedDialogues

if TYPE_CHECKING:
    import pyarrow as pa

_BLOCK_VALUES = 4_000_000


def open_embeddings(directory: Path) -> EmbeddedDialogues:
    """Validate a folder and open it.

    Raises:
        UsageError: the folder is invalid; the message says what is wrong, where, and how to fix it.
    """
    if not directory.is_dir():
        raise UsageError(f"{directory}: no such folder: name a folder of embeddings.")
    table = _read_table(directory / UTTERANCES_FILE)
    matrices = {path.stem: _open_matrix(path) for path in sorted(directory.glob("*.npy"))}
    if not matrices:
        raise UsageError(f"{directory}: it has no <modality>.npy: add one, for example text.npy.")
    rows = table.num_rows
    for name, matrix in matrices.items():
        if len(matrix) != rows:
            raise UsageError(
                f"{directory}: {name}.npy has {counted(len(matrix), 'row')} and {UTTERANCES_FILE} {rows}; both need a row an utterance, "
                "in the same order."
            )
    return _assemble(directory, table, matrices)


def _read_table(path: Path) -> pa.Table:
    import pyarrow as pa

    if not path.is_file():
        raise UsageError(f"{path}: there is no such file; it names split, dialogue_id, turn and label of each row.")
    try:
        with open_parquet(path) as file:
            names = file.schema_arrow.names
        for column in ("split", "dialogue_id", "turn", "label"):
            if column not in names:
                raise UsageError(f"{path}: the column {column} is missing; found {', '.join(names)}.")
        table = read_parquet(path, ["split", "dialogue_id", "turn", "label"])
    except (ParseError, OSError) as error:
        raise UsageError(f"{path}: it cannot be read as parquet ({error}).") from error
    if not table.num_rows:
        raise UsageError(f"{path}: it has no rows.")
    for column in table.column_names:
        if column in ("split", "dialogue_id") and pa.types.is_dictionary(table[column].type):
            table = table.set_column(table.column_names.index(column), column, table[column].cast(pa.string()))
        if table[column].null_count and column != "label":
            row = table[column].is_null().to_pylist().index(True)
            raise UsageError(f"{path}: {column} is empty in row {row}; each row needs one.")
    if not pa.types.is_integer(table["turn"].type):
        raise UsageError(f"{path}: turn is {table['turn'].type}; it should be whole numbers.")
    return table


def _open_matrix(path: Path) -> np.ndarray:
    if not path.stem.isidentifier() or path.stem == "cross_modal":
        raise UsageError(f"{path}: {path.stem!r} cannot name a modality; use letters, digits and _ (not cross_modal).")
    try:
        matrix: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UsageError(
            f"{path}: it cannot be read as a plain .npy matrix; save it with numpy.save as float32."
        ) from error
    if matrix.dtype != np.float32:
        raise UsageError(f"{path}: it holds {matrix.dtype}; save it as float32.")
    if matrix.ndim != 2 or not matrix.shape[1]:
        raise UsageError(f"{path}: its shape is {matrix.shape}; it should be [utterances, width].")
    return matrix


def _present(path: Path, matrix: np.ndarray) -> np.ndarray:
    """Mask of the rows that are present (not NaN) ``[N]``; infinite values raise UsageError."""
    present = np.empty(len(matrix), dtype=bool)
    block = max(1, _BLOCK_VALUES // matrix.shape[1])
    for start in range(0, len(matrix), block):
        values = np.asarray(matrix[start : start + block])
        infinite: np.ndarray = np.isinf(values).any(1)
        if infinite.any():
            raise UsageError(
                f"{path}: row {start + int(infinite.argmax())} holds an infinite value; compute it again, or make the row NaN "
                "if the utterance lacks this modality."
            )
        present[start : start + block] = ~np.isnan(values).any(1)
    return present


def _classes(path: Path, table: pa.Table, train: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Label names in order, and the class index of each row ``[N]``; :data:`UNLABELLED` for a context turn."""
    import pyarrow as pa

    column = table["label"]
    if pa.types.is_dictionary(column.type):
        column = column.cast(pa.string())
    if pa.types.is_integer(column.type):
        targets = column.cast(pa.int64(), safe=False).fill_null(UNLABELLED).to_numpy().copy()
        if targets.min() < UNLABELLED:
            raise UsageError(
                f"{path}: label {targets.min()} in row {int(targets.argmin())} is out of range; labels count from 0, and "
                f"{UNLABELLED} or null marks a turn that is only context."
            )
        known = np.unique(targets[train & (targets != UNLABELLED)])
        if not len(known):
            raise _without_label(path, "train")
        outside: np.ndarray = ~np.isin(targets, [*known, UNLABELLED])
        if outside.any():
            row = int(outside.argmax())
            raise UsageError(
                f"{path}: label {targets[row]} in row {row} is out of range: train has {counted(len(known), 'label')}, "
                f"{known.min()} to {known.max()}, and it is none of them."
            )
        if known.max() >= len(known):
            gap = next(value for value in range(len(known)) if value not in set(known.tolist()))
            raise UsageError(
                f"{path}: labels go up to {known.max()}, but train has no utterance of {gap}; number them 0, 1, 2 …"
            )
        names = [str(value) for value in range(len(known))]
    elif pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        values = np.asarray(column.to_pylist(), dtype=object)
        names = sorted(set(values[train].tolist()) - {None})
        if not names:
            raise _without_label(path, "train")
        index_of: dict[str | None, int] = {name: index for index, name in enumerate(names)}
        unknown = len(names)
        targets = np.array([index_of.get(value, unknown) for value in values], dtype=np.int64)
        targets[[value is None for value in values]] = UNLABELLED
        if (targets == unknown).any():
            row = int((targets == unknown).argmax())
            raise UsageError(
                f"{path}: label {values[row]!r} in row {row} is out of range: no utterance of train has it."
            )
    else:
        raise UsageError(f"{path}: label is {column.type}; it should be text or whole numbers.")
    if len(names) < 2:
        raise UsageError(f"{path}: there is only one label ({names[0]!r}); a classifier needs at least two.")
    return names, targets


def _without_label(path: Path, split: str) -> UsageError:
    return UsageError(
        f"{path}: no utterance of {split} has a label; train, dev and test each need some, and the others are context."
    )


def _assemble(directory: Path, table: pa.Table, matrices: Mapping[str, np.ndarray]) -> EmbeddedDialogues:
    path = directory / UTTERANCES_FILE
    splits = np.asarray(table["split"].to_pylist(), dtype=object)
    unknown: np.ndarray = np.array([split not in SPLITS for split in splits])
    if unknown.any():
        row = int(unknown.argmax())
        raise UsageError(f"{path}: split {splits[row]!r} in row {row} is none of {', '.join(SPLITS)}.")
    for split in SPLITS:
        if split not in splits:
            raise UsageError(f"{path}: the {split} split has no dialogue; train, dev and test each need some.")
    labels, targets = _classes(path, table, splits == "train")
    for split in SPLITS:
        if (targets[splits == split] == UNLABELLED).all():
            raise _without_label(path, split)
    names = np.asarray([str(name) for name in table["dialogue_id"].to_pylist()], dtype=object)
    turns = table["turn"].to_numpy()
    split_codes = np.array([SPLITS.index(split) for split in splits])
    present = np.zeros(len(names), dtype=bool)
    for name, matrix in matrices.items():
        present |= _present(directory / f"{name}.npy", matrix)
    # Dialogues keep the order in which they first occur; turns are sorted.
    codes: dict[str, int] = {}
    code = np.array([codes.setdefault(name, len(codes)) for name in names])
    order = np.lexsort((turns, code, split_codes))
    dialogues: dict[str, list[EmbeddedDialogue]] = {split: [] for split in SPLITS}
    split_of_dialogue: dict[str, str] = {}
    borders = np.flatnonzero(np.diff(code[order]) | np.diff(split_codes[order])) + 1
    for rows in np.split(order, borders):
        name, split = names[rows[0]], splits[rows[0]]
        twice = np.flatnonzero(np.diff(turns[rows]) == 0)
        if len(twice):
            raise UsageError(
                f"{path}: dialogue {name!r} has turn {turns[rows[twice[0]]]} twice (rows {rows[twice[0]]} and "
                f"{rows[twice[0] + 1]}); a turn is one utterance."
            )
        if name in split_of_dialogue:
            raise UsageError(
                f"{path}: dialogue {name!r} is in {split_of_dialogue[name]} and in {split}; a dialogue belongs to one split."
            )
        split_of_dialogue[name] = split
        if not present[rows].any():
            raise UsageError(
                f"{path}: dialogue {name!r} has no input: each of its rows is NaN in every modality; remove it."
            )
        start, end = int(rows[0]), int(rows[-1]) + 1
        plain = end - start == len(rows) and bool((np.diff(rows) == 1).all())
        dialogues[split].append(EmbeddedDialogue(name, slice(start, end) if plain else rows, targets[rows]))
    return EmbeddedDialogues(dialogues, matrices, labels)
