"""Files that only their owner may read, for what may hold a secret."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO, Final

AFFECTS_RESULTS = False
"""Who may read a file changes no result."""

OWNER_ONLY: Final = 0o600


def open_private(path: Path) -> BinaryIO:
    """Open a file for writing, with mode 0600 from its first byte on; an existing file is emptied."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, OWNER_ONLY)
    os.fchmod(descriptor, OWNER_ONLY)
    return os.fdopen(descriptor, "wb")


def write_private(path: Path, text: str) -> None:
    """Write a text to a file with mode 0600."""
    with open_private(path) as file:
        file.write(text.encode())
