"""Facts of an utterance's value of a modality beside speech and text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from mistere.data.kinds.kind import Kind


class CellFacts(NamedTuple):
    """Facts of one cell.

    Attributes:
        present: the utterance has the modality.
        problem: why it cannot be used, as a clause; empty if it can, None if it is absent.
        width: number of its values, of a kind that has the same number everywhere.
    """

    present: bool = False
    problem: str | None = None
    width: int | None = None


def measure_cell(kind: Kind, cell: Any | None) -> CellFacts:
    """The facts of a cell, which is decoded."""
    if cell is None:
        return CellFacts()
    problem = kind.problem(cell, thorough=True).rstrip(".")
    return CellFacts(True, problem[:1].lower() + problem[1:], kind.width(cell))


def cells_schema() -> pa.Schema:
    """Columns of a table of cells: one row per utterance and modality."""
    import pyarrow as pa

    return pa.schema(
        [
            ("row", pa.int32()),
            ("dialogue_id", pa.string()),
            ("turn", pa.float64()),
            ("modality", pa.string()),
            ("present", pa.bool_()),
            ("problem", pa.string()),
            ("width", pa.int32()),
        ]
    )


def cell_batch(names: Mapping[str, list[Any]], modality: str, facts: Sequence[CellFacts]) -> pa.RecordBatch:
    """The facts of consecutive utterances as a batch of :func:`cells_schema`.

    Args:
        names: row, dialogue_id and turn of each utterance.
        modality: the modality.
        facts: of its cells.
    """
    import pyarrow as pa

    schema = cells_schema()
    columns: dict[str, list[Any]] = {
        **{name: names[name] for name in ("row", "dialogue_id", "turn")},
        "modality": [modality] * len(facts),
        **{name: [fact[position] for fact in facts] for position, name in enumerate(CellFacts._fields)},
    }
    return pa.RecordBatch.from_arrays(
        [pa.array(columns[each.name], each.type, from_pandas=False) for each in schema], schema=schema
    )


def described(cells: pd.DataFrame) -> pd.DataFrame:
    """Cells with ``usable`` (missing where absent), and ``expected_width``, the most frequent one of the modality."""
    cells["usable"] = (cells["problem"] == "").where(cells["present"].astype(bool)).astype(object)
    widths = cells.groupby("modality")["width"].agg(lambda own: own.mode().min() if own.notna().any() else None)
    cells["expected_width"] = cells["modality"].map(widths).astype(float)
    cells["width_fits"] = (cells["width"] == cells["expected_width"]).where(cells["width"].notna()).astype(object)
    return cells
