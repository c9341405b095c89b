"""Where things lie on this machine: the cache for what can be fetched or made again, and the project's own root."""

from __future__ import annotations

import os
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parents[2]
LOCK_FILE = PROJECT_ROOT / "requirements.lock"


def cache_directory(*parts: str) -> Path:
    """``$MISTERE_CACHE`` (default ``$XDG_CACHE_HOME/mistere``) with ``parts`` below it. Safe to delete at any time."""
    base = os.environ.get("MISTERE_CACHE")
    home = Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "mistere"
    return home.joinpath(*parts)
