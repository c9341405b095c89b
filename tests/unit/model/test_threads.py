"""How OpenMP threads wait (with little spinning unless the user sets a policy, set before PyTorch is imported), and how many there are."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mistere.common.processes.child_environment import child_environment
from mistere.common.processes.threads import WAITING_VARIABLES, limit_spinning
from mistere.common.progress import Progress
from mistere.config.encoder import EncoderConfig
from mistere.config.mixture import MixtureConfig
from mistere.model import torch_threads
from mistere.model.embeddings import EmbeddedDialogue, EmbeddedDialogues
from mistere.model.encoders import embedding
from mistere.model.encoders.embedding import Embedder
from mistere.model.encoders.families import families
from mistere.model.encoders.utterance_encoder import UtteranceEncoder, save_tuned
from mistere.model.mixture import training as training_module
from mistere.model.mixture.mixture import MixtureOfExperts
from mistere.model.mixture.prediction import make_batch, predict, representations
from mistere.model.mixture.training import MixtureTraining, train_mixture
from mistere.model.torch_threads import PREDICTION_WORK, TRAINING_WORK
from pipelines.profiles import load_profile
from tests.unit.model.dialogue_sets import dialogues_of
from tests.unit.model.fixed_settings import FIXED


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


@pytest.mark.parametrize(("hidden", "expected"), [(64, 1), (256, 2)])
def test_a_small_mixture_trains_on_one_thread_and_a_larger_one_on_several(
    hidden: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dialogues as long as IEMOCAP's, of 49 turns, in batches of eight, with the columns of the sample."""
    monkeypatch.setattr(torch_threads, "usable_cores", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    dialogues = [
        EmbeddedDialogue(f"d{index}", slice(49 * index, 49 * index + 49), np.zeros(49, np.int64)) for index in range(8)
    ]
    rows = {name: np.zeros((8 * 49, width), np.float32) for name, width in {"speech": 20, "text": 384}.items()}
    data = EmbeddedDialogues({"train": dialogues, "dev": dialogues[:1]}, rows, list("abcdef"))
    sizes = {"hidden": hidden, "fusion_width": 2 * hidden}
    training = MixtureTraining(load_profile("sample").mixture.model_copy(update=sizes), data)
    assert torch_threads.threads_for(training.step_work(), TRAINING_WORK) == expected


class ThreadsUsed(TorchDispatchMode):
    """Notes how many threads each operation may use."""

    def __init__(self) -> None:
        super().__init__()
        self.by_name: dict[str, set[int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.by_name.setdefault(func.name(), set()).add(torch.get_num_threads())
        return func(*args, **(kwargs or {}))


@pytest.fixture
def four_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch as if it had four threads, which are not started; each Python thread has a number of its own, as with OpenMP."""
    own = threading.local()
    monkeypatch.setattr(torch, "get_num_threads", lambda: getattr(own, "count", 4))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: setattr(own, "count", count))
    for module in (torch_threads, embedding):
        monkeypatch.setattr(module, "usable_cores", lambda: 4)


@pytest.mark.usefixtures("four_threads")
def test_nothing_of_a_small_prediction_waits_for_a_second_thread() -> None:
    """A softmax of nine rows on two threads takes 8 ms where another process has the second core, and the mixture takes 4."""
    model = MixtureOfExperts(MixtureConfig(**FIXED | {"hidden": 8, "fusion_width": 8}), {"text": 4}, 3).eval()
    dialogues = [{"text": np.ones((9, 4), np.float32)}]
    with ThreadsUsed() as collating:
        make_batch(dialogues, model.dimensions)
    with ThreadsUsed() as used:
        predict(model, dialogues, 1.3)
        representations(model, dialogues)
    views = {
        "aten::resolve_conj",
        "aten::resolve_neg",
        "aten::detach_",
        "aten::to.dtype_layout",
    }  # of results as arrays
    computed = {name: each for name, each in used.by_name.items() if name not in views | collating.by_name.keys()}
    assert any("softmax" in name for name in computed) and torch.get_num_threads() == 4
    assert {name for name, each in computed.items() if each != {1}} == set()


def embedder_of(folder: Path) -> Embedder:
    settings = EncoderConfig(kind="text", source="random:bidirectional_text", projection=8, dropout=0.0)
    family = families()["bidirectional_text"]
    family.write_random(folder / "base", 0)
    save_tuned(UtteranceEncoder(family(folder / "base", settings, torch.float32), settings, 3), folder)
    return Embedder(
        "text",
        "bidirectional_text",
        folder / "base",
        folder / "tuned.safetensors",
        settings.model_dump(mode="json"),
        3,
        device="cpu",
    )


@pytest.mark.usefixtures("four_threads")
def test_each_batch_of_a_request_has_a_core_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = embedder_of(tmp_path)
    used: list[tuple[int, int]] = []
    original = embedder._vectors

    def vectors(features: list[Any]) -> np.ndarray:
        used.append((len(features), torch.get_num_threads()))
        return original(features)

    monkeypatch.setattr(embedder, "_vectors", vectors)

    def batches(count: int) -> list[tuple[int, int]]:
        used.clear()
        features = [{"input_ids": [2, *[9] * 38, 3], "pooled": [True] * 40, "length": 40} for _ in range(count)]
        assert np.isfinite(embedder.embed(features)).all()
        return sorted(used)

    assert batches(1) == [(1, 1)]
    assert [size for size, _ in batches(16)] == [4] * 4 and {number for _, number in used} == {1}
    monkeypatch.setattr(embedding, "ENCODING_WORK", 1.0)  # as if the encoder were large
    assert batches(1) == [(1, 4)], "one large batch has all cores"
    assert batches(6) == [(3, 2)] * 2
