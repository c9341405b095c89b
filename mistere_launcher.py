"""The console script ``mistere``.

It is a module of its own because a folder or file ``mistere`` on ``PYTHONPATH`` hides the package before any of its code
runs. This module finds that out without importing the other package.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn


def main() -> NoReturn:
    """Run the command, unless Python would import another package of this name."""
    if foreign := _foreign_package():
        sys.exit(
            f"mistere: Python imports the package 'mistere' from {foreign}, which is not this project: remove its folder "
            "from PYTHONPATH, or rename it."
        )
    import_module("mistere.__main__").main()
    raise AssertionError("the command always exits")


def _foreign_package() -> str:
    """The location of a package ``mistere`` that does not belong to this project; empty if there is none.

    Another checkout of the project on ``PYTHONPATH`` is accepted: its package ``pipelines`` lies beside it.
    """
    spec = find_spec("mistere")
    if spec is None:
        return "nowhere"
    locations = list(spec.submodule_search_locations or [spec.origin or "nowhere"])
    ours = any(Path(location).with_name("pipelines").joinpath("cli", "app.py").is_file() for location in locations)
    return "" if ours else locations[0]
