"""The comparison of subsets of the modalities as a table on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from mistere.metrics.modality_choice import SubsetScore


def modality_table(subsets: Sequence[SubsetScore], used: SubsetScore, title: str) -> Table:
    """One row per subset: weighted F1, and its difference to the first subset in points.

    Args:
        subsets: their scores.
        used: the subset to show in bold.
        title: heading of the first column.
    """
    from mistere.metrics.modality_choice import points

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for index, column in enumerate((title, "weighted F1", "difference in points")):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    for subset in subsets:
        difference = "" if subset is subsets[0] else points(subset.difference)
        style = "bold" if subset is used else ""
        name = escape(" + ".join(subset.modalities))
        table.add_row(name, f"{subset.weighted_f1.value:.3f}", escape(difference), style=style)
    return table
