"""``mistere run --if-drifted``: a run that did not start does not count as the retraining for its drift."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import MistereError
from mistere.runs.traffic_monitor import claim_retraining, monitor_traffic
from pipelines.cli.commands import run as command
from pipelines.cli.drift import DriftGuard
from tests.local.workshop import make_dataset, rows
from tests.unit.traffic.monitored_store import make_champion, write_days
from tests.unit.traffic.simulation import World, draw, reference


@pytest.fixture
def drifted(tmp_path: Path) -> LocalStore:
    """The store of an output directory, whose champion's traffic drifted yesterday."""
    generator, world = np.random.default_rng(0), World()
    (tmp_path / "output").mkdir()
    store = LocalStore(tmp_path / "output" / "store")
    digest = make_champion(store, tmp_path / "bundle", reference(world, generator))
    louder = draw(replace(world, level=world.level + 6), 2000, generator, hours=1)
    write_days(store, digest, [louder], first=int(time.time() // 86_400) - 1)
    return store


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["write_run_info", "start"])
def test_a_run_that_does_not_start_is_forgotten(
    drifted: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, failure: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(command, step, fail)
    data = make_dataset(tmp_path / "data", rows(audio=False))
    with pytest.raises(type(failure)):
        command.run("tiny", str(data), [], drifted.root.parent, if_drifted=True)
    assert claim_retraining(drifted, monitor_traffic(drifted, "7d"), "next", lambda _: True) is None


KILLED = """
import os, signal, sys
from pathlib import Path
from pipelines.cli.commands import run as command
command.start = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
command.run("tiny", sys.argv[1], [], Path(sys.argv[2]), if_drifted=True)
"""


def test_a_run_that_is_killed_before_it_starts_does_not_keep_the_drift(
    drifted: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, output = make_dataset(tmp_path / "data", rows(audio=False)), drifted.root.parent
    killed = subprocess.run([sys.executable, "-c", KILLED, str(data), str(output)], check=False)
    assert killed.returncode == -signal.SIGKILL
    (run_id,) = claimed(drifted)
    started: list[str] = []

    def start(*_: object) -> NoReturn:
        started.extend(claimed(drifted))
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "start", start)
    with pytest.raises(KeyboardInterrupt):
        command.run("tiny", str(data), [], output, if_drifted=True)
    assert len(started) == 1 and started != [run_id]

    assert DriftGuard(drifted, monitor_traffic(drifted, "7d")).claim("began", lambda _: False)
    drifted.write("runs/began/stages/resolve_inputs.json", b"{}")
    capsys.readouterr()
    assert command.run("tiny", str(data), [], output, if_drifted=True) == 0
    assert "run began was started for this drift" in capsys.readouterr().out


def claimed(store: LocalStore) -> list[str]:
    """The runs that the records name."""
    (key,) = (key for key in store.keys("traffic") if key.endswith("/retrainings.json"))
    return [record["run_id"] for record in json.loads(store.read(key)[0])["drifts"]]


def test_a_record_that_cannot_be_taken_back_is_said(
    drifted: LocalStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    guard = DriftGuard(drifted, monitor_traffic(drifted, "7d"))
    assert guard.claim("run-1", lambda _: True)

    def full(*_: object, **__: object) -> None:
        raise MistereError("the store cannot be written.")

    monkeypatch.setattr(LocalStore, "write", full)
    guard.give_back("run-1")
    assert "run run-1 was not started, but stays recorded" in capsys.readouterr().out
