"""The monitoring pipeline under kfp's local runner."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import ExitCode
from mistere.runs.outcome import read_outcome, report_key
from tests.local.workshop import run_pipeline
from tests.unit.traffic.monitored_store import make_champion, write_days
from tests.unit.traffic.simulation import World, draw, reference


@pytest.mark.long
def test_a_run_records_the_verdict_and_keeps_the_page(tmp_path: Path) -> None:
    store, generator, world = LocalStore(tmp_path / "store"), np.random.default_rng(0), World()
    digest = make_champion(store, tmp_path / "bundle", reference(world, generator))
    louder = draw(replace(world, level=world.level + 6), 2000, generator, hours=1)
    write_days(store, digest, [louder], first=int(time.time() // 86_400) - 1)
    context = {
        "run_id": "monitored",
        "store": store.uri,
        "data_remote": "none",
        "data_digest": "0" * 32 + ".dir",
        "tracking_uri": "sqlite:///none.db",
    }
    done = run_pipeline(tmp_path / "run", "monitoring", {"run": context, "monitoring": {"since": "7d"}})
    outcome = read_outcome(store, "monitored")
    assert (outcome.verdict, outcome.exit_code) == ("monitored", ExitCode.DIFFERENT), (
        outcome.reasons,
        done.stdout[-3000:] + done.stderr[-3000:],
    )
    assert "has drifted away" in outcome.reasons[0]
    assert b"levels of the recordings" in store.read(report_key("monitored", "traffic.html"))[0]
