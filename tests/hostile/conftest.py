"""The source of the product, for the tests that search it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mistere.common.paths import PROJECT_ROOT


@pytest.fixture(scope="session")
def code_modules() -> dict[Path, str]:
    """The text of every module of the three packages."""
    folders = ("mistere", "components", "pipelines")
    return {
        path: path.read_text(encoding="utf-8")
        for folder in folders
        for path in sorted((PROJECT_ROOT / folder).rglob("*.py"))
    }
