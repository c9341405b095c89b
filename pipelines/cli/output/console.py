"""What the commands print: texts that others may have written never control the terminal."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.text import Text

from mistere.common.names import terminal_text


class OutputConsole(Console):
    """A console that prints ``?`` for control characters.

    Labels, names, reasons and paths come from datasets, bundles, stores and servers, and rich passes escape sequences on. Cells of a
    table are not changed: :func:`pipelines.cli.output.tables.print_table` does that.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as :class:`rich.console.Console` does; a line break in a text remains one."""
        super().print(*map(_safe, objects), **options)


def print_text(text: str) -> None:
    """Print a text at once, with ``?`` for control characters; a line break in it remains one."""
    print(_safe_lines(text), flush=True)


def harmless_json(text: str) -> str:
    """The same JSON with escapes for characters of its strings that would control a terminal."""
    lines = text.split("\n")
    return "\n".join(line if line.isprintable() else "".join(map(_escaped, line)) for line in lines)


def _escaped(letter: str) -> str:
    return letter if terminal_text(letter) == letter else json.dumps(letter)[1:-1]


def _safe_lines(text: str) -> str:
    return "\n".join(map(terminal_text, text.split("\n")))


def _safe(shown: Any) -> Any:
    if isinstance(shown, str):
        return _safe_lines(shown)
    if isinstance(shown, Text) and (plain := _safe_lines(shown.plain)) != shown.plain:
        shown = shown.copy()
        shown.plain = plain  # as long as before, so that its styles stay where they are
    return shown
