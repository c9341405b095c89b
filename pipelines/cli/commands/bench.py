"""``mistere bench``: the scripts of ``tests/bench/``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from mistere.common.errors import UsageError
from mistere.common.paths import require_checkout
from mistere.common.processes.child_environment import child_environment
from mistere.common.suggestions import did_you_mean
from pipelines.cli.commands import bench_script


def bench(name: str | None, arguments: Sequence[str]) -> None:
    """List the benchmarks, or become one: this process is replaced, so that a signal reaches the benchmark itself."""
    directory = require_checkout("mistere bench") / "tests" / "bench"
    scripts = {path.stem: path for path in sorted(directory.glob("*.py")) if path.stem != "__init__"}
    if name is None:
        for stem, path in scripts.items():
            print(f"{stem:<15} {_first_line(path.read_text(encoding='utf-8'))}")
        return
    if name not in scripts:
        raise UsageError(f"unknown benchmark {name!r}{did_you_mean(name, scripts)}")
    verbose = [bench_script.VERBOSE] if bench_script.VERBOSE in sys.argv else []
    # Unbuffered: a figure is in the file or pipe once it is measured, whatever happens to those after it.
    command = [sys.executable, "-u", "-m", bench_script.__name__, *verbose, str(scripts[name]), *arguments]
    sys.stdout.flush()
    os.execve(sys.executable, command, child_environment())  # noqa: S606  (no shell is needed)


def _first_line(source: str) -> str:
    import ast

    return (ast.get_docstring(ast.parse(source)) or "").split("\n", 1)[0]
