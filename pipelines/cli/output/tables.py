"""Tables of the commands: as wide as their content in a file or a pipe, and fitted to the terminal's width otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mistere.common.names import terminal_text
from pipelines.cli.output.console import OutputConsole

_UNLIMITED = 10_000
_GAP = 2
_LEAST_FOLDED = 24


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: its heading.
        right: whether it is aligned at the right, as numbers are.
        folds: whether long texts are folded where the terminal is narrow.
        drop: columns with higher numbers are left out first where the terminal is too narrow; 0 for one that always stays.
    """

    name: str
    right: bool = False
    folds: bool = False
    drop: int = 0


def output_console() -> Console:
    """The console of standard output. A file or a pipe has no width, so that nothing is folded or cut there."""
    console = OutputConsole(highlight=False)
    return console if console.is_terminal else OutputConsole(highlight=False, width=_UNLIMITED)


def print_table(
    console: Console,
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    styles: Mapping[int, str] | None = None,
    complete: str = "--json",
) -> None:
    """Print a table that fits the console's width.

    Args:
        console: see :func:`output_console`.
        columns: from left to right.
        rows: a text for each column; names and reasons in them may come from others, so ``?`` stands for control characters.
        styles: of some rows, by their position.
        complete: the option that shows columns that are left out.
    """
    rows = [[terminal_text(text) for text in row] for row in rows]
    shown = _fitting(columns, rows, console.width)
    table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="dim")
    for position in shown:
        column = columns[position]
        table.add_column(
            column.name,
            justify="right" if column.right else "left",
            no_wrap=not column.folds,
            overflow="fold" if column.folds else "ellipsis",
        )
    for number, row in enumerate(rows):
        table.add_row(*(Text(row[position]) for position in shown), style=(styles or {}).get(number, ""))
    if console.is_terminal:
        console.print(table)
    else:
        with console.capture() as captured:
            console.print(table)
        console.out("\n".join(line.rstrip() for line in captured.get().splitlines()), highlight=False)
    if missing := [column.name for position, column in enumerate(columns) if position not in shown]:
        console.print(Text(f"Not shown at this width: {', '.join(missing)}. {complete} has all columns.", style="dim"))


def _fitting(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """The positions of the columns that fit."""
    widths = []
    for position, column in enumerate(columns):
        natural = max(map(cell_len, (column.name, *(row[position] for row in rows))))
        widths.append(min(natural, max(_LEAST_FOLDED, cell_len(column.name))) if column.folds else natural)
    shown = list(range(len(columns)))
    for position in sorted(shown, key=lambda index: -columns[index].drop):
        if columns[position].drop and sum(widths[index] + _GAP for index in shown) - _GAP > width:
            shown.remove(position)
    return shown
