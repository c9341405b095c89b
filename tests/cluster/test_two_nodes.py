"""Two nodes really train: each a process tree of its own with a disk of its own, a store between them, a cluster that starts
them."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

import mistere.kubernetes.api as kubernetes_api
from components.finetune_encoder.nodes import launch as nodes
from components.pull_data.run import describe
from mistere.artifacts.checkpoints import Checkpoints
from mistere.artifacts.manifests import EncoderCheckpoint, UtteranceSet
from mistere.artifacts.object_store import LocalStore, ObjectStore
from mistere.artifacts.s3.store import S3Store
from mistere.common.paths import PROJECT_ROOT
from mistere.config.encoder import NodeSettings, TextConfig
from mistere.data.versions import pin
from mistere.engine.stage import RunContext, Step
from tests.cluster.trainer import KEY, TrainerCluster, environment_of, step_inside, until
from tests.local.servers import free_port
from tests.local.workshop import make_dataset, rows
from tests.stand_ins.trainer_controller import TrainerController
from tests.unit.conftest import s3_endpoint, s3_store  # noqa: F401

SETTINGS = TextConfig(
    source="random:bidirectional_text",
    projection=8,
    epochs=3,
    patience=3,
    batch_size=8,
    learning_rate=1e-3,
    head_learning_rate=1e-2,
    device="cpu",
    checkpoint_seconds=0.0,
)


class Tree:
    """A node's container as local processes."""

    def __init__(self, command: list[str], environment: dict[str, str], say: Callable[[str], None]) -> None:
        self.process = subprocess.Popen(
            command, env=environment, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        threading.Thread(target=self._listen, args=(say,), daemon=True).start()

    def _listen(self, say: Callable[[str], None]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            say(line.rstrip("\n"))

    def poll(self) -> int | None:
        return self.process.poll()

    def stop(self) -> None:
        if self.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Kill the whole process tree, as the loss of a machine does."""
        parent = psutil.Process(self.process.pid)
        for each in [*parent.children(recursive=True), parent]:
            each.kill()
        self.process.wait(10)


class Machines:
    """Starts nodes as Kubernetes would; ``trees`` are the last of each, ``starts`` counts them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.trees: dict[int, Tree] = {}
        self.starts = [0, 0]

    def __call__(self, trainer: dict[str, Any], environment: dict[str, str], say: Callable[[str], None]) -> Tree:
        node = int(environment["PET_NODE_RANK"])
        self.starts[node] += 1
        command = [sys.executable, *trainer["command"][1:], *trainer["args"]]
        self.trees[node] = Tree(command, environment_of(node, environment, self.folder, self.port), say)
        return self.trees[node]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> UtteranceSet:
    folder = tmp_path_factory.mktemp("data")
    pinned = pin(str(make_dataset(folder / "tones", rows(audio=False))), str(folder / "remote"))
    return describe(pinned.remote, pinned.digest)


@pytest.fixture
def cluster(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    s3_store: S3Store,  # noqa: F811
) -> Iterator[TrainerCluster]:
    monkeypatch.setattr(nodes, "_POLL_SECONDS", 0.2)
    monkeypatch.setattr(kubernetes_api, "_RETRY_SECONDS", (0.1, 0.1))
    running = step_inside(tmp_path, s3_store, monkeypatch)
    yield running
    running.close()


def tune(
    reference: UtteranceSet, store: ObjectStore, output: Path, settings: TextConfig, cluster: TrainerCluster
) -> EncoderCheckpoint:
    from components.finetune_encoder.fine_tuning import fine_tune

    context = RunContext(run_id="test", store=store.uri, tracking_uri="")
    checkpoints = Checkpoints(store, "finetune_encoder", KEY)
    output.mkdir()
    return fine_tune(
        settings,
        Step("finetune_encoder-text", KEY, context, store, cluster.progress, checkpoints),
        reference,
        output,
        "text",
    )


def differ(one: Path, other: Path) -> float:
    ours, theirs = load_file(one / "tuned.safetensors"), load_file(other / "tuned.safetensors")
    assert ours.keys() == theirs.keys()
    return max(float(np.abs(ours[name] - theirs[name]).max()) for name in ours)


def same_curve(one: EncoderCheckpoint, other: EncoderCheckpoint) -> bool:
    """Compare up to rounding: a process with a node of its own uses more threads."""
    pairs = zip(one.history, other.history, strict=True)
    return all(theirs == pytest.approx(ours, abs=1e-5) for ours, theirs in pairs)


@pytest.mark.long
def test_two_nodes_give_the_result_of_two_processes(
    reference: UtteranceSet, cluster: TrainerCluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    in_processes = SETTINGS.model_copy(update={"processes": 2})
    one = tune(reference, LocalStore(tmp_path / "store"), tmp_path / "a", in_processes, cluster)
    machines = Machines(tmp_path)
    cluster.controller = TrainerController(cluster.api, machines)
    on_nodes = SETTINGS.model_copy(update={"num_nodes": 2})
    two = tune(reference, cluster.store, tmp_path / "b", on_nodes, cluster)
    assert machines.starts == [1, 1]
    assert differ(tmp_path / "a", tmp_path / "b") < 1e-6
    assert same_curve(one, two)
    assert "node 0: event=progress task=finetune_encoder-text" in capfd.readouterr().out
    assert not list(cluster.store.keys("nodes"))
    until(lambda: not cluster.api.all("trainjobs"))


@pytest.mark.long
@pytest.mark.parametrize("how", ["its machine is gone", "its machine is drained"])
def test_a_lost_node_does_not_change_the_result(
    how: str, reference: UtteranceSet, cluster: TrainerCluster, tmp_path: Path
) -> None:
    in_processes = SETTINGS.model_copy(update={"processes": 2})
    one = tune(reference, LocalStore(tmp_path / "store"), tmp_path / "a", in_processes, cluster)
    machines = Machines(tmp_path)
    cluster.controller = TrainerController(cluster.api, machines, backoff=6)
    fell = threading.Event()

    def fall() -> None:
        deadline = time.monotonic() + 200
        while sum(key.endswith(".complete") for key in cluster.store.keys("checkpoints")) < 2:
            if time.monotonic() > deadline:
                return
            time.sleep(0.02)
        if how == "its machine is gone":
            shutil.rmtree(tmp_path / "node-1")
            machines.trees[1].kill()
        else:
            machines.trees[1].process.send_signal(signal.SIGTERM)
        fell.set()

    thread = threading.Thread(target=fall)
    thread.start()
    on_nodes = SETTINGS.model_copy(update={"num_nodes": 2})
    two = tune(reference, cluster.store, tmp_path / "b", on_nodes, cluster)
    thread.join()
    assert fell.is_set() and machines.starts[0] > 1 and machines.starts[1] > 1
    assert differ(tmp_path / "a", tmp_path / "b") < 1e-6
    assert same_curve(one, two)


@pytest.mark.long
@pytest.mark.parametrize("how", ["undisturbed", "its machine is drained"])
def test_one_node_gives_the_result_of_the_step_itself(
    how: str, reference: UtteranceSet, cluster: TrainerCluster, tmp_path: Path
) -> None:
    one = tune(reference, LocalStore(tmp_path / "store"), tmp_path / "a", SETTINGS, cluster)
    machines = Machines(tmp_path)
    cluster.controller = TrainerController(cluster.api, machines)

    def drain() -> None:
        until(lambda: any(key.endswith(".complete") for key in cluster.store.keys("checkpoints")))
        machines.trees[0].process.send_signal(signal.SIGTERM)

    thread = threading.Thread(target=drain)
    if how != "undisturbed":
        thread.start()
    on_nodes = SETTINGS.model_copy(update={"nodes": NodeSettings(trainjob=True)})
    two = tune(reference, cluster.store, tmp_path / "b", on_nodes, cluster)
    if how != "undisturbed":
        thread.join()
    assert machines.starts[0] == (1 if how == "undisturbed" else 2)
    assert differ(tmp_path / "a", tmp_path / "b") < 1e-6 and same_curve(one, two)
