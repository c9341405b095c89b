"""``mistere bench``: the scripts of ``tests/bench/``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from mistere.common.errors import UsageError
from mistere.common.paths import PROJECT_ROOT
from mistere.common.suggestions import did_you_mean


def bench(name: str | None, arguments: Sequence[str]) -> int:
    """Run a benchmark, or list them.

    Returns:
        Its exit code.
    """
    scripts = {
        path.stem: path for path in sorted((PROJECT_ROOT / "tests" / "bench").glob("*.py")) if path.stem != "__init__"
    }
    if name is None:
        for stem, path in scripts.items():
            print(f"{stem:<15} {_first_line(path.read_text(encoding='utf-8'))}")
        return 0
    if name not in scripts:
        raise UsageError(f"unknown benchmark {name!r}{did_you_mean(name, scripts)}")
    command = [sys.executable, str(scripts[name]), *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(PROJECT_ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(command, env=environment, check=False).returncode


def _first_line(source: str) -> str:
    import ast

    return (ast.get_docstring(ast.parse(source)) or "").split("\n", 1)[0]
