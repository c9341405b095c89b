"""Fixtures of the tests that run the whole pipeline."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.local.canaries import environment
from tests.local.workshop import ROOT, Run, committed_tree, make_dataset, run


@pytest.fixture(scope="session")
def pulled_sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample dataset in a fresh clone, fetched with ``dvc pull``."""
    clone = tmp_path_factory.mktemp("clone") / "mistere"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    dvc = Path(sys.executable).with_name("dvc")
    remote = ("remote", "add", "--quiet", "--local", "sample", ".dvc/sample-remote")
    for command in (remote, ("pull", "--quiet", "--remote", "sample")):
        subprocess.run([str(dvc), *command], cwd=clone, check=True)
    return clone / "data" / "sample"


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of this tree in which everything is committed."""
    return committed_tree(tmp_path_factory.mktemp("tree") / "mistere")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data") / "tones")


@pytest.fixture(scope="session")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("output")


@pytest.fixture(scope="session")
def first(output: Path, data: Path, tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The first run, from a committed tree, with secrets in its environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(tmp_path_factory.mktemp("home")).items():
            patch.setenv(name, value)
        return run(output, data, root=tree)
