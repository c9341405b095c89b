"""The command ``mistere``: ``python -m mistere``, and what the console script (``mistere_launcher.py``) calls."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from mistere.common.processes.threads import limit_spinning

_ROOT = str(Path(__file__).resolve().parents[1])


def main() -> NoReturn:
    """Run the command of the tree that this file belongs to.

    The packages ``components`` and ``pipelines`` are imported from the directory of this package: a folder of that name in
    the current directory or on ``PYTHONPATH`` must not take their place. They are layers above this library, hence
    imported by name.
    """
    limit_spinning()
    sys.path.insert(0, _ROOT)
    try:
        for name in ("components", "pipelines"):
            import_module(name)
    finally:
        sys.path.remove(_ROOT)
    for name in ("components", "pipelines"):
        if foreign := _foreign_location(name):
            sys.exit(
                f"mistere: Python imports the package {name!r} from {foreign}, but this command belongs to {_ROOT}: remove "
                "that folder from PYTHONPATH, or start the command elsewhere."
            )
    import_module("pipelines.cli.app").main()
    raise AssertionError("the command always exits")


def _foreign_location(name: str) -> str:
    """The directory that a package is imported from where that is not this tree; empty where it is."""
    module = import_module(name)
    locations = [str(Path(path).resolve()) for path in module.__path__]
    ours = str(Path(_ROOT, name))
    return "" if locations == [ours] else next((path for path in locations if path != ours), f"nowhere (no {ours})")


if __name__ == "__main__":
    main()
