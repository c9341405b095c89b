"""How OpenMP threads wait: with little spinning unless the user sets a policy, and set before PyTorch is imported."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mistere.common.processes.child_environment import child_environment
from mistere.common.processes.threads import WAITING_VARIABLES, limit_spinning


@pytest.fixture
def no_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in WAITING_VARIABLES:
        monkeypatch.setenv(name, "")  # restored after the test, even if the test sets it
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("no_policy")
def test_spinning_is_limited() -> None:
    limit_spinning()
    assert {name: os.environ.get(name) for name in WAITING_VARIABLES} == {
        "OMP_WAIT_POLICY": None,
        "GOMP_SPINCOUNT": "5000",
        "KMP_BLOCKTIME": None,
    }


@pytest.mark.usefixtures("no_policy")
@pytest.mark.parametrize("variable", WAITING_VARIABLES)
def test_user_defined_wait_policy_is_kept(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "7")
    limit_spinning()
    assert [(name, os.environ[name]) for name in WAITING_VARIABLES if name in os.environ] == [(variable, "7")]


@pytest.mark.usefixtures("no_policy")
def test_openmp_runtime_reads_the_wait_policy() -> None:
    code = "from mistere.common.processes.threads import limit_spinning; limit_spinning(); import torch"
    environment = child_environment(OMP_DISPLAY_ENV="VERBOSE")
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "GOMP_SPINCOUNT = '5000'" in done.stderr


@pytest.mark.usefixtures("no_policy")
def test_wait_policy_is_set_before_pytorch_is_imported(tmp_path: os.PathLike[str]) -> None:
    check = "assert os.environ['GOMP_SPINCOUNT'] == '5000' and 'torch' not in sys.modules"
    stage = (
        "import os, sys; from mistere.engine import execution\n"
        "try: execution.execute(None, {}, {})\n"
        f"except ValueError: {check}\n"  # fails on the run description, after the policy is set
        "else: raise AssertionError"
    )
    command = (
        "import os, sys; from mistere.__main__ import main; sys.argv = ['mistere', '--version']\n"
        f"try: main()\nexcept SystemExit: {check}"
    )
    for code in (stage, command):
        subprocess.run([sys.executable, "-c", code], env=child_environment(), cwd=tmp_path, check=True)
