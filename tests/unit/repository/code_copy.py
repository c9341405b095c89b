"""Copies the code for tests that add a file to it, and reads complete example files from the documentation."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def copy_code(target: Path) -> None:
    """Copy the modules of ``mistere``, ``components`` and ``pipelines`` with the files beside them."""
    for package in ("mistere", "components", "pipelines"):
        shutil.copytree(ROOT / package, target / package, ignore=shutil.ignore_patterns("__pycache__"))


def python_block(page: Path) -> str:
    """Return the first Python block of a page that starts with a docstring: a complete file."""
    for block in re.findall(r"^```python[^\n]*\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        if block.startswith('"""'):
            return str(block)
    raise AssertionError(f"{page} shows no complete file")


def run_python(tree: Path, *arguments: str) -> str:
    """Run Python in a tree, which supplies the project's code; return stdout."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(
        [sys.executable, *arguments], cwd=tree, env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
