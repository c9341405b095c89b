"""Folders that are written under a temporary name and renamed when they are complete, and what killed processes left of them."""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

AFFECTS_RESULTS = False
"""The name under which a folder is written changes no result."""


def partial_folder(folder: Path) -> Path:
    """The folder beside another one in which this process writes it."""
    return folder.with_name(f".{folder.name}.partial-{os.getpid()}")


def delete_partial_folders(folder: Path) -> None:
    """Delete what killed processes left of a folder, recordings perhaps; also what has the id of this process, which has not begun.

    In a container most processes have the same id as the one before them.
    """
    folder = folder.absolute()
    named = re.compile(rf"\.{re.escape(folder.name)}\.partial-(?P<process>[0-9]{{1,9}})")
    with suppress(OSError):  # without a folder, or the right to list it, there is nothing to delete
        for beside in list(folder.parent.iterdir()):
            match = named.fullmatch(beside.name)
            if match is not None and not _runs(int(match["process"])):
                shutil.rmtree(beside, ignore_errors=True)


def _runs(process: int) -> bool:
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True
