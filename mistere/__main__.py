"""``python -m mistere``: the installed command ``mistere``.

The command belongs to a storey above this library, so it is looked up by its entry point instead of being imported.
"""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, entry_points


def main() -> None:
    """Run the console script ``mistere``."""
    found: tuple[EntryPoint, ...] = tuple(entry_points(group="console_scripts", name="mistere"))
    if not found:
        sys.exit("mistere: the command is not installed in this environment: pip install . in a checkout.")
    found[0].load()()


if __name__ == "__main__":
    main()
