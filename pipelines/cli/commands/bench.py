"""``mistere bench``: the scripts of ``tests/bench/``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from mistere.common.errors import UsageError
from mistere.common.paths import require_checkout
from mistere.common.processes.child_environment import child_environment
from mistere.common.suggestions import did_you_mean


def bench(name: str | None, arguments: Sequence[str]) -> int:
    """Run a benchmark, or list them.

    Returns:
        The exit code of the benchmark.
    """
    directory = require_checkout("mistere bench") / "tests" / "bench"
    scripts = {path.stem: path for path in sorted(directory.glob("*.py")) if path.stem != "__init__"}
    if name is None:
        for stem, path in scripts.items():
            print(f"{stem:<15} {_first_line(path.read_text(encoding='utf-8'))}")
        return 0
    if name not in scripts:
        raise UsageError(f"unknown benchmark {name!r}{did_you_mean(name, scripts)}")
    command = [sys.executable, str(scripts[name]), *arguments]
    return subprocess.run(command, env=child_environment(), check=False).returncode


def _first_line(source: str) -> str:
    import ast

    return (ast.get_docstring(ast.parse(source)) or "").split("\n", 1)[0]
