"""Make the built pages readable on narrow screens: names in tables break where a reader expects it, dates and percentages do not.

Tables of three columns and more become lists there; each cell then shows the name of its column (``docs/images/extra.css``).
"""

from __future__ import annotations

import re
from typing import Any

_LEAST_COLUMNS = 3
_LONG = 14
_TABLE = re.compile(r"<table>.*?</table>", re.DOTALL)
_ROW = re.compile(r"<tr>.*?</tr>", re.DOTALL)
_CELL = re.compile(r"<(t[dh])([^>]*)>(.*?)</\1>", re.DOTALL)
_CODE = re.compile(r"(<code[^>]*>)(.*?)(</code>)", re.DOTALL)
_DATE = re.compile(r"\b\d{4}-\d\d-\d\d\b")


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Called by mkdocs with each page as HTML; the search index is made before, from the page without the changes."""
    return readable(output)


def readable(html: str) -> str:
    """The page with better tables, and no line break before a per cent sign."""
    html = _TABLE.sub(lambda found: _table(found[0]), html)
    return re.sub(r"(?<=\d) (?=%)", "\N{NO-BREAK SPACE}", html)


def _table(table: str) -> str:
    names = [re.sub(r"<[^>]+>", "", cell[3]).strip() for cell in _CELL.finditer(_ROW.search(table)[0])]  # type: ignore[index]
    many = len(names) >= _LEAST_COLUMNS
    table = _ROW.sub(lambda row: _row(row[0], names if many else []), table)
    return table.replace("<table>", "<table data-list>", 1) if many else table


def _row(row: str, names: list[str]) -> str:
    position = -1

    def cell(found: re.Match[str]) -> str:
        nonlocal position
        position += 1
        kind, attributes, content = found.groups()
        content = _CODE.sub(lambda code: code[1] + _breakable(code[2]) + code[3], content)
        content = _DATE.sub(r'<span class="whole">\g<0></span>', content)
        if kind == "td" and 0 < position < len(names) and names[position]:
            attributes += f' data-name="{names[position].replace(chr(34), "&quot;")}"'
        return f"<{kind}{attributes}>{content}</{kind}>"

    return _CELL.sub(cell, row)


def _breakable(code: str) -> str:
    """A command or name with places to break after the characters that separate the parts of long words; options stay whole."""
    if len(code) <= _LONG or "<" in code:
        return code
    return " ".join(_word(word) for word in code.split(" "))


def _word(word: str) -> str:
    if re.fullmatch(r"--?[\w-]{1,24}", word):
        return f'<span class="whole">{word}</span>'
    return re.sub(r"(?<=[/_.=,])(?=\w)", "<wbr>", word)
