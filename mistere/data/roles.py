"""Which turns of a dataset are predicted: those of the roles that it names, or all. The label of any other turn does not count."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


def label_of_role(label: str | None, role: str | None, predict_roles: Collection[str]) -> str | None:
    """The label that counts: None for a turn that is context, because nobody labelled it or its role is not predicted.

    Args:
        label: the label in the data.
        role: the role of the turn; None if the data name none.
        predict_roles: the roles whose turns are predicted; empty for all turns, whatever their role.
    """
    return label if not predict_roles or role in predict_roles else None


def labels_of_roles(table: pa.Table, predict_roles: Collection[str]) -> pa.Table:
    """:func:`label_of_role` for a table: its column ``label``, null where the turn is context.

    Args:
        table: with ``label`` and, unless no shard has it, ``role``.
        predict_roles: the roles whose turns are predicted; empty for all turns.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if not predict_roles:
        return table
    labels = table["label"].cast(pa.string())
    if "role" in table.column_names:
        predicted = pc.is_in(table["role"].cast(pa.string()), pa.array(sorted(predict_roles), pa.string()))
        labels = pc.if_else(predicted, labels, pa.scalar(None, pa.string()))
    else:
        labels = pa.nulls(len(table), pa.string())
    return table.set_column(table.column_names.index("label"), "label", labels)
