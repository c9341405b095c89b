"""Command lines as they are printed: a shell splits them into the words that they were made from."""

from __future__ import annotations

import shlex

AFFECTS_RESULTS = False
"""How a command is shown changes no result."""


def command_line(*words: object) -> str:
    """Join words into one line for a shell; see :func:`shell_word`."""
    return " ".join(shell_word(word) for word in words)


def shell_word(word: object) -> str:
    """A word, quoted where a shell would change it.

    A word with control characters takes the form ``$'…'`` of bash and zsh, so that it stays on its line and does not control the
    terminal.
    """
    text = str(word)
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(_escaped(character) for character in text) + "'"


def _escaped(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    if character.isprintable():
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))
