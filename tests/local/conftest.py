"""What tests of the whole pipeline share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.local.workshop import ROOT, Run, committed_tree, make_dataset, run


@pytest.fixture(scope="session")
def pulled_sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample dataset in a fresh clone, pulled as a person would."""
    clone = tmp_path_factory.mktemp("clone") / "mistere"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    dvc = Path(sys.executable).with_name("dvc")
    subprocess.run([str(dvc), "pull", "--quiet"], cwd=clone, check=True)
    return clone / "data" / "sample"


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This tree in a commit."""
    return committed_tree(tmp_path_factory.mktemp("tree") / "mistere")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "tones")


@pytest.fixture(scope="session")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("output")


@pytest.fixture(scope="session")
def first(output: Path, data: Path, tree: Path) -> Run:
    """The first run, from a tree that a commit holds."""
    return run(output, data, root=tree)
