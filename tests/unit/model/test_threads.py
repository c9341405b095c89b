"""How OpenMP threads wait (with little spinning unless the user sets a policy, set before PyTorch is imported), and how many there are."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest
import torch

from mistere.common.processes.child_environment import child_environment
from mistere.common.processes.threads import WAITING_VARIABLES, limit_spinning
from mistere.common.progress import Progress
from mistere.config.mixture import MixtureConfig
from mistere.model import torch_threads
from mistere.model.embeddings import EmbeddedDialogue
from mistere.model.mixture import training as training_module
from mistere.model.mixture.training import MixtureTraining, train_mixture
from mistere.model.torch_threads import PREDICTION_WORK, TRAINING_WORK
from tests.unit.model.dialogue_sets import dialogues_of


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


@pytest.mark.long
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


def test_little_work_runs_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_threads, "usable_cores", lambda: 3)
    monkeypatch.setattr(
        torch_threads.torch, "get_num_threads", lambda: 64
    )  # a container's limit is below the node's cores
    assert torch_threads.threads_for(0.9e9, PREDICTION_WORK) == 1
    assert torch_threads.threads_for(1.1e9, PREDICTION_WORK) == 3
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # OMP_NUM_THREADS
    assert torch_threads.threads_for(1.1e10, TRAINING_WORK) == 2


@pytest.mark.long
def test_training_uses_threads_for_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    used: dict[int, int] = {}
    original = MixtureTraining.train_step

    def train_step(training: MixtureTraining, dialogues: Sequence[EmbeddedDialogue]) -> torch.Tensor:
        used[training.config.hidden] = torch.get_num_threads()
        return original(training, dialogues)

    monkeypatch.setattr(MixtureTraining, "train_step", train_step)
    monkeypatch.setattr(torch_threads, "usable_cores", lambda: 2)
    now = [2]  # not set in PyTorch: two threads of this process would wait for each other on a busy machine
    monkeypatch.setattr(torch, "get_num_threads", lambda: now[-1])
    monkeypatch.setattr(torch, "set_num_threads", now.append)
    monkeypatch.setattr(training_module, "TRAINING_WORK", 1e6)
    for hidden in (2, 32):
        config = MixtureConfig(hidden=hidden, gru_layers=1, fusion="feed_forward", fusion_width=4, epochs=1)
        train_mixture(config, dialogues_of(seed=1), progress=Progress("train"))
    assert used == {2: 1, 32: 2} and now[-1] == 2
