"""``mistere submit --if-drifted``: one run for each drift, with the reason in its record."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mistere.common.errors import MistereError, UsageError
from mistere.serving.traffic.files import bundle_prefix
from pipelines.cli.commands import submit as command
from pipelines.cli.drift import DriftGuard
from tests.cluster.mounted_pod import MountedCluster, api, mounted, no_token, s3_endpoint, s3_store
from tests.cluster.test_submit import only_run
from tests.unit.traffic.monitored_store import make_champion, write_days
from tests.unit.traffic.simulation import World, draw, reference

__all__ = ["api", "mounted", "no_token", "s3_endpoint", "s3_store"]


def test_a_drift_starts_one_run_with_its_reason(
    mounted: MountedCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generator, world = np.random.default_rng(0), World()
    digest = make_champion(mounted.store, tmp_path / "bundle", reference(world, generator))
    today = int(time.time() // 86_400)
    write_days(mounted.store, digest, [draw(world, 2000, generator, hours=1)], first=today - 2)
    assert mounted.submit(if_drifted=True) == 0 and not mounted.api.requests
    assert "has not drifted" in capsys.readouterr().out
    louder = draw(replace(world, level=world.level + 6), 2000, generator, hours=1)
    write_days(mounted.store, digest, [louder], first=today - 1)
    assert mounted.submit(if_drifted=True) == 0
    run = only_run(mounted.api)
    info = json.loads(mounted.store.read(f"runs/{run.display_name}/run.json")[0])
    assert "the levels of the recordings drifted" in info["reason"]
    assert "was started for this drift" not in capsys.readouterr().out
    assert (
        mounted.submit("gate.min_weighted_f1=0.6", if_drifted=True) == 0
    )  # it would be another run, were it not for the drift
    assert only_run(mounted.api) is run and f"run {run.display_name} was started" in capsys.readouterr().out
    with pytest.raises(UsageError, match="--if-drifted retrains"):
        mounted.submit(if_drifted=True, pipeline="scoring")


@pytest.mark.parametrize("failure", [MistereError("the server refuses the version."), OSError(28, "No space left")])
def test_a_drift_whose_run_did_not_start_is_forgotten(
    mounted: MountedCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    generator, world = np.random.default_rng(0), World()
    digest = make_champion(mounted.store, tmp_path / "bundle", reference(world, generator))
    louder = draw(replace(world, level=world.level + 6), 2000, generator, hours=1)
    write_days(mounted.store, digest, [louder], first=int(time.time() // 86_400) - 1)
    with monkeypatch.context() as broken:

        def refuse(*_: object) -> None:
            raise failure

        broken.setattr(command, "ensure_uploaded", refuse)
        with pytest.raises(type(failure), match=r"refuses|No space"):
            mounted.submit(if_drifted=True)
    assert mounted.submit(if_drifted=True) == 0 and only_run(mounted.api)


def test_a_drift_whose_submit_was_killed_is_taken_over(
    mounted: MountedCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is given back, as after SIGKILL: first before the run was started, then after it."""
    generator, world = np.random.default_rng(0), World()
    digest = make_champion(mounted.store, tmp_path / "bundle", reference(world, generator))
    louder = draw(replace(world, level=world.level + 6), 2000, generator, hours=1)
    write_days(mounted.store, digest, [louder], first=int(time.time() // 86_400) - 1)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    def nothing(*_: object) -> None:
        """In place of what a killed process does no more."""

    with monkeypatch.context() as patched:
        patched.setattr(command, "ensure_uploaded", killed)
        patched.setattr(command, "give_back", nothing)
        patched.setattr(DriftGuard, "give_back", nothing)
        with pytest.raises(KeyboardInterrupt):
            mounted.submit(if_drifted=True)
    with pytest.raises(MistereError, match="is being started for this drift, since"):
        mounted.submit("gate.min_weighted_f1=0.6", if_drifted=True)
    key = f"{bundle_prefix(digest)}/retrainings.json"
    records = json.loads(mounted.store.read(key)[0])
    records["drifts"][0]["started_at"] -= 601
    mounted.store.write(key, json.dumps(records).encode())
    with monkeypatch.context() as patched:
        patched.setattr(DriftGuard, "confirm", nothing)
        assert mounted.submit("gate.min_weighted_f1=0.6", if_drifted=True) == 0
    run = only_run(mounted.api)
    assert mounted.submit("gate.min_weighted_f1=0.7", if_drifted=True) == 0 and only_run(mounted.api) is run
    assert f"run {run.display_name} was started for this drift" in capsys.readouterr().out
