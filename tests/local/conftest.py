"""What tests of the whole pipeline share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.local.workshop import ROOT


@pytest.fixture(scope="session")
def pulled_sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample dataset in a fresh clone, pulled as a person would."""
    clone = tmp_path_factory.mktemp("clone") / "mistere"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    dvc = Path(sys.executable).with_name("dvc")
    subprocess.run([str(dvc), "pull", "--quiet"], cwd=clone, check=True)
    return clone / "data" / "sample"
