"""The tables of what was tried to break; the page docs/operations/what-we-tried-to-break.md repeats their counts."""

from __future__ import annotations

from typing import Final

NAMES: Final = {
    "parent": "../../canary",
    "deep": "a/../../../canary",
    "absolute": "{canary}",
    "nul": "a\0b",
    "newline": "a\n[core]\nb",
    "home": "~/canary",
    "backslash": "..\\..\\canary",
    "drive": "C:\\canary",
    "slash-drive": "c:/canary",
    "dot": "./.",
    "long": "n" * 300,
    "very-long": "n/" * 3000 + "n",
    "surrogate": "\ud800",
}
"""Hostile names by kind; ``{canary}`` is the path of a file outside."""
