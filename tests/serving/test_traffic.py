"""The predictor's statistics over HTTP: counted once, shown to Prometheus, written to the store, and never in the way."""

from __future__ import annotations

import re
import time
from pathlib import Path

import httpx
import pytest

from mistere.artifacts.object_store import LocalStore
from mistere.serving.traffic.figures import Figures
from mistere.serving.traffic.files import read_traffic
from tests.serving.conftest import LABELS, Server, Utterance, clip, launch
from tests.serving.test_lifecycle import FAULTY, wait_for


def shown(server: Server, name: str) -> float:
    """A metric, summed over its labels."""
    text = httpx.get(f"{server.url}/metrics", timeout=60).text
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


NAMES = (
    "mistere_traffic_turns_total",
    "mistere_traffic_resent_turns_total",
    "mistere_traffic_dialogues_total",
    "mistere_traffic_label_total",
    "mistere_traffic_confidence_count",
    "mistere_traffic_seconds_count",
    "mistere_traffic_level_below_full_scale_db_count",
    "mistere_traffic_text_length_count",
    'mistere_traffic_expert_weight_count{expert="speech"}',
)


def test_a_live_conversation_is_counted_once(server: Server) -> None:
    names = [name.replace("{", r"\{").replace("}", r"\}") for name in NAMES]
    before = [shown(server, name) for name in names]
    dialogue = [
        Utterance("Is it you?", clip(1.1, pitch=411)),
        Utterance("It is me."),
        Utterance(None, clip(0.8, pitch=412)),
    ]
    for length in (1, 2, 3, 3):
        server.client.predict_rest(dialogue[:length])
    after = [shown(server, name) for name in names]
    assert [int(now - was) for now, was in zip(after, before, strict=True)] == [3, 6, 1, 3, 3, 2, 2, 2, 2]


def test_counts_reach_the_store_of_the_bundle(server: Server, bundle: str) -> None:
    server.client.predict_rest([Utterance(f"It is {time.time_ns()} now.")])
    shown_turns = shown(server, "mistere_traffic_turns_total")
    store = LocalStore(Path(bundle).parents[2])
    figures = Figures(tuple(LABELS), ("speech", "text", "cross_modal"), ("speech", "text"))
    deadline = time.monotonic() + 60
    while True:
        hours = read_traffic(store, Path(bundle).name, figures, 0, 1 << 30, pytest.fail)
        if sum(counts.total("turns") for counts in hours.values()) == shown_turns:
            return
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.long
def test_a_store_that_fails_fails_no_answer_and_the_rest_is_written_at_the_end(tmp_path: Path) -> None:
    gate, store = tmp_path / "loaded", tmp_path / "store"
    gate.touch()
    store.mkdir()
    (store / "traffic").write_text("a file where a folder belongs")
    options = ("--traffic-store", str(store), "--traffic-seconds", "0.2", "--drain-seconds", "0")
    server = launch(FAULTY, str(gate), tmp_path / "log", *options)
    try:
        wait_for(server, "/v2/health/ready", 200)
        server.client.predict_rest([Utterance("One."), Utterance("Two.")])
        deadline = time.monotonic() + 60
        while not shown(server, "mistere_traffic_store_failures_total"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (store / "traffic").unlink()
        server.client.predict_rest([Utterance("Three.")])
        assert server.terminate() == 0
    finally:
        server.process.kill()
        server.process.wait()
    figures = Figures(("anger", "joy"), ("text", "cross_modal"), ("text",))
    hours = read_traffic(LocalStore(store), "d" * 64, figures, 0, 1 << 30, pytest.fail)
    assert sum(counts.total("turns") for counts in hours.values()) == 3
    assert "Traceback" not in server.log.read_text()
