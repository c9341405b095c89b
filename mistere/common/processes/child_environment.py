"""The environment of Python processes that run this project's code."""

from __future__ import annotations

import os
from pathlib import Path

from mistere.common.errors import UsageError
from mistere.common.paths import PROJECT_ROOT, check_folder

AFFECTS_RESULTS = False
"""Where a process finds its modules changes no result: they are always the ones that the digest covers."""


def child_environment(root: Path = PROJECT_ROOT, **variables: str) -> dict[str, str]:
    """The environment of a Python process that imports this project's packages, whatever folder it starts in.

    ``python -m`` puts the current directory first on the module path, so a user's folder named ``components`` or
    ``pipelines`` would hide ours. ``PYTHONSAFEPATH`` turns that off, also for the processes that the child starts.

    Args:
        root: the directory that holds the packages.
        **variables: added to the environment of this process.

    Raises:
        UsageError: the root's name has a colon or a control character.
    """
    check_folder(root, "the folder of the code")
    if os.pathsep in str(root):
        raise UsageError(
            f"the folder of the code, {root}, has a colon in its name, which PYTHONPATH cannot hold: rename it."
        )
    paths = [str(root), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "PYTHONSAFEPATH": "1",
        **variables,
    }
