"""``mistere monitor``: verdicts, exit codes, page, webhook, and one retraining for each drift."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import ArtifactError, MistereError, UsageError
from mistere.registry.release.champion import read_champion
from mistere.registry.release.journal import Journal
from mistere.reports.traffic.page import render_traffic, shown_chance
from mistere.runs.traffic_monitor import (
    DriftRecord,
    MonitoredTraffic,
    claim_retraining,
    confirm_retraining,
    give_back_retraining,
    hours_of,
    monitor_traffic,
)
from mistere.serving.deployment import Deployment, journal_key
from mistere.serving.traffic.comparison import BOUNDS, Measure, compare_traffic, day_alpha, holm, measured
from mistere.serving.traffic.figures import Counts
from mistere.serving.traffic.files import bundle_prefix
from mistere.serving.traffic.reference import prediction_counts, read_traffic_profile, write_traffic_profile
from pipelines.cli.commands import monitor as command
from pipelines.cli.commands.monitor import monitor
from tests.unit.labelling.kept import keep, kept_turn
from tests.unit.traffic.monitored_store import FIRST_DAY, NOW, make_champion, write_days
from tests.unit.traffic.simulation import FIGURES, World, draw, reference

WORLD = World()
LOUDER = replace(WORLD, level=WORLD.level + 6)


@pytest.fixture(scope="module")
def worlds() -> dict[str, list[Counts]]:
    """A reference, and the hours of days without and with drift."""
    generator = np.random.default_rng(5)
    days = {f"steady {number}": draw(WORLD, 2000, generator) for number in range(3)}
    return {"reference": [reference(WORLD, generator)], **days, "louder": draw(LOUDER, 2000, generator)}


@pytest.fixture
def without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page costs a second of plots each time."""
    monkeypatch.setattr(command, "render_traffic", lambda traffic: traffic.headline())


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def champion_with(store: LocalStore, worlds: dict[str, list[Counts]], *days: str, folder: str = "bundle") -> str:
    digest = make_champion(store, store.root.parent / folder, worlds["reference"][0])
    write_days(store, digest, [worlds[name] for name in days])
    return digest


def test_steady_traffic(
    store: LocalStore, worlds: dict[str, list[Counts]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    champion_with(store, worlds, "steady 0", "steady 1", "steady 2")
    assert monitor(store, "7d", tmp_path / "page.html", now=NOW) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("steady   The traffic of mistere version 7 resembles what the model was tested on")
    assert "levels of the recordings" in printed
    page = (tmp_path / "page.html").read_text()
    assert f"by chance, at most {shown_chance(day_alpha(whole=True))}" in page and "cross_modal" not in page
    assert "3</b><span>days with traffic" in page
    assert page.count("<svg") >= 9 and "<script" not in page and "http://" not in page.replace("http://www.w3.org", "")
    assert monitor(store, "7d", tmp_path / "page.html", as_json=True, now=NOW) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["verdict"], len(result["days"]), result["reasons"]) == ("steady", 3, [])


@pytest.mark.usefixtures("without_plots")
def test_drifted_traffic_and_a_drift_that_has_passed(
    store: LocalStore, worlds: dict[str, list[Counts]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = champion_with(store, worlds, "steady 0", "steady 1", "louder")
    assert monitor(store, "7d", tmp_path / "page.html", now=NOW) == 5
    printed = capsys.readouterr().out
    assert printed.startswith("drifted ") and "the levels of the recordings drifted: distance 0." in printed
    assert (
        f"at most {shown_chance(day_alpha(whole=True))}, and drifted" in printed
        and "weight of the expert cross-modal" in printed
    )
    assert "drifted" in (tmp_path / "page.html").read_text()
    write_days(store, digest, [worlds["steady 2"]], first=FIRST_DAY + 3)
    assert monitor(store, "7d", tmp_path / "page.html", now=NOW + 86_400) == 0
    assert "watch    " in (printed := capsys.readouterr().out) and "had drifted on" in printed
    assert monitor(store, "1d", tmp_path / "page.html", now=NOW + 86_400) == 0
    assert capsys.readouterr().out.startswith("steady ")


@pytest.mark.usefixtures("without_plots")
def test_names_of_others_do_not_control_the_terminal(
    store: LocalStore,
    worlds: dict[str, list[Counts]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    champion_with(store, worlds, "steady 0", "steady 1", "louder")
    traffic = monitor_traffic(store, "7d", NOW)
    look = traffic.comparison.latest
    assert look is not None
    look.measures[:] = [replace(one, detail="joy\x1b[2J 1 % to 9 %") for one in look.measures]
    hostile = replace(traffic, model="mistere\x9b31m", notes=["\x1b]0;title\x07"])
    monkeypatch.setattr(command, "monitor_traffic", lambda *_: hostile)
    monitor(store, "7d", tmp_path / "page.html", now=NOW)
    printed = capsys.readouterr().out
    assert "(joy?[2J 1 % to 9 %)" in printed and "of mistere?31m has" in printed and "?]0;title?" in printed
    assert all(line.isprintable() for line in printed.splitlines())


@pytest.mark.usefixtures("without_plots")
def test_too_little_traffic_is_not_compared(
    store: LocalStore, worlds: dict[str, list[Counts]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = make_champion(store, tmp_path / "bundle", worlds["reference"][0])
    write_days(store, digest, [worlds["louder"][:1]])
    assert monitor(store, "7d", tmp_path / "page.html", now=NOW) == 0
    assert "No day has 200 new turns" in capsys.readouterr().out


def test_a_bundle_without_reference_says_what_is_not_compared(
    store: LocalStore, worlds: dict[str, list[Counts]], tmp_path: Path
) -> None:
    digest = make_champion(store, tmp_path / "bundle", None)
    write_days(store, digest, [worlds["steady 0"]])
    traffic = monitor_traffic(store, "7d", NOW)
    assert len(traffic.notes) == 2 and not traffic.comparison.looks[0].measures
    assert "are not compared" in render_traffic(traffic)


@pytest.mark.usefixtures("without_plots")
def test_a_release_that_nobody_attends_to_is_named_whatever_the_traffic(
    store: LocalStore, worlds: dict[str, list[Counts]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = make_champion(store, tmp_path / "bundle", worlds["reference"][0])
    write_days(store, digest, [worlds["steady 0"]])
    champion = read_champion(store).champion
    assert champion is not None
    journal = Journal(
        state="pending",
        host="laptop",
        process=1,
        since=0.0,
        deployment_before="",
        deployment=Deployment(service="mistere", bundle_location="b", bundle_digest="b" * 64, model_version="2"),
        champion=champion.model_copy(update={"model_version": "2", "moved_at": 5.0}),
    )
    store.write(journal_key("mistere"), journal.sealed())
    assert monitor(store, "7d", tmp_path / "page.html", now=NOW) == 0
    assert "The release of version 2 to mistere was interrupted" in " ".join(capsys.readouterr().err.split())


def test_errors_say_what_to_do(store: LocalStore, worlds: dict[str, list[Counts]], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no champion"):
        monitor_traffic(store, "7d", NOW)
    make_champion(store, tmp_path / "bundle", worlds["reference"][0])
    with pytest.raises(
        MistereError,
        match=r"has no traffic since .*: look further back, or start the predictor with `mistere serve --traffic`",
    ):
        monitor_traffic(store, "7d", NOW)
    for wrong in ("", "7", "0d", "-1d", "99999d", "7 days", "93d", "１d"):
        with pytest.raises(UsageError, match="is no duration"):
            hours_of(wrong)
    assert (hours_of("7d"), hours_of("36h")) == (168, 36)


def test_kept_dialogues_in_a_store_of_their_own_are_swept(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = LocalStore(tmp_path / "kept")
    keep(own, "old", [kept_turn()], keep_until="2020-01-01")
    monkeypatch.setenv("MISTERE_PREDICTOR_SAMPLE_STORE", str(own.root))
    with pytest.raises(MistereError, match="has no champion"):
        monitor(store, "7d", tmp_path / "page.html")
    assert not list(own.keys("sample/dialogues"))


def test_a_damaged_reference_is_named(tmp_path: Path, worlds: dict[str, list[Counts]]) -> None:
    path = tmp_path / "traffic_profile.json"
    write_traffic_profile(worlds["reference"][0], path)
    counts = read_traffic_profile(path, FIGURES)
    assert np.array_equal(counts.table("label"), worlds["reference"][0].table("label"))
    for damaged in ("", "[]", "{}", path.read_text().replace('"neutral"', '"calm"')):
        path.write_text(damaged)
        with pytest.raises(ArtifactError, match="not a valid profile of predictions"):
            read_traffic_profile(path, FIGURES)


def test_a_reference_of_before_pairs_were_counted_by_label(tmp_path: Path, worlds: dict[str, list[Counts]]) -> None:
    """The correlation of the traffic stands for that of the reference; without either, the turns of a dialogue count as one."""
    path, whole = tmp_path / "traffic_profile.json", sum(worlds["steady 0"], FIGURES.empty())
    write_traffic_profile(worlds["reference"][0], path)
    content = json.loads(path.read_text())
    del content["label_pairs"]
    path.write_text(json.dumps(content))
    earlier = read_traffic_profile(path, FIGURES)
    assert not earlier.table("label_pairs").any() and earlier.total("pairs")
    uncounted = Counts(FIGURES, whole.values.copy())
    uncounted.table("label_pairs")[:] = 0
    pairs = (whole, worlds["reference"][0]), (whole, earlier), (uncounted, earlier)
    both, one, none = (measured(counts, before)[0].probability for counts, before in pairs)
    assert none > max(both, one) and one == pytest.approx(both, abs=0.2)


def test_the_reference_counts_the_predictions_for_the_test_split(tmp_path: Path) -> None:
    labels = [0, 0, 1, 2]
    probabilities = np.full((4, 7), 0.05, np.float32)
    probabilities[np.arange(4), labels] = 0.7
    weights = np.array([[0, 0.6, 0.4]] * 3 + [[0.5, 0.3, 0.2]], np.float32)
    rows = [
        pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
        for values in (probabilities, weights)
    ]
    names = ["a", "a", "a", "b"]
    modalities = ["text", "text", "text", "speech+text"]
    table = pa.table(
        {"dialogue_id": names, "probabilities": rows[0], "expert_weights": rows[1], "modalities": modalities}
    )
    pq.write_table(table, tmp_path / "predictions.parquet")
    counts = prediction_counts(tmp_path / "predictions.parquet", FIGURES, {"Latin": 9, "Runic": 2})
    assert counts.by_key("label")["neutral"] == 2 and counts.by_key("weight") == {
        "speech": 1,
        "text": 4,
        "cross_modal": 4,
    }
    assert [counts.total(key) for key in ("dialogues", "turns", "pairs")] == [2, 4, 3]
    assert counts.table("label_pairs")[:3].tolist() == [[0, 2, 1], [1, 2, 0], [3, 0, 0]]
    assert counts.by_key("modality") == {"speech": 1, "text": 4, "none": 0}
    assert (counts.by_key("script")["Latin"], counts.by_key("script")["other"]) == (9, 2)


def test_one_day_is_counted_in_the_singular(
    store: LocalStore, worlds: dict[str, list[Counts]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion_with(store, worlds, "steady 0")
    monkeypatch.setattr("mistere.reports.traffic.page._plots", lambda _: [])
    monitor(store, "7d", tmp_path / "page.html", now=NOW)
    assert "1</b><span>day with traffic" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("probability", "shown"),
    [(0.2, "0.2"), (0.00071428, "0.00071"), (1.5e-5, "0.000015"), (1e-9, "below 0.000001"), (1, "1")],
)
def test_a_chance_is_shown_as_precisely_as_the_level_that_decides(probability: float, shown: str) -> None:
    assert shown_chance(probability) == shown


def test_holm_stops_at_the_first_figure_that_did_not_move() -> None:
    made = [Measure(name, "", 0.5, 0.1, p) for name, p in (("script", 0.004), ("seconds", 0.001), ("rms_dbfs", 0.5))]
    corrected = holm(made, 0.01)
    assert [one.moved for one in corrected] == [True, True, False]
    assert [one.corrected for one in corrected] == pytest.approx([0.008, 0.003, 0.5])
    first = [Measure("label", "", 0.5, 0.1, 0.004), *made[1:]]
    assert holm(first, 0.01)[0].corrected == pytest.approx(max(0.004 * 4 / 3, 0.001 * 5))


def test_a_certain_but_small_distance_is_watched(worlds: dict[str, list[Counts]]) -> None:
    quieter = draw(replace(WORLD, level=WORLD.level + 1.2), 60_000, np.random.default_rng(0))
    before = reference(WORLD, np.random.default_rng(1), 60_000)
    comparison = compare_traffic(dict(enumerate(quieter)), before, 24)
    assert comparison.verdict == "watch"
    (moved,) = comparison.looks[0].moved
    assert moved.figure == "rms_dbfs" and moved.distance < BOUNDS["rms_dbfs"]


def drifted(
    store: LocalStore, worlds: dict[str, list[Counts]], *days: str, now: float = NOW, folder: str = "bundle"
) -> MonitoredTraffic:
    champion_with(store, worlds, *days, folder=folder)
    return monitor_traffic(store, "7d", now)


def claim(store: LocalStore, traffic: MonitoredTraffic, run_id: str) -> DriftRecord | None:
    """Claim a drift, whose runs all start."""
    earlier = claim_retraining(store, traffic, run_id, lambda _: True)
    if earlier is None:
        confirm_retraining(store, traffic, run_id)
    return earlier


@pytest.mark.long
def test_one_retraining_for_each_drift_and_bundle(store: LocalStore, worlds: dict[str, list[Counts]]) -> None:
    traffic = drifted(store, worlds, "steady 0", "louder", "louder")
    assert claim(store, traffic, "first") is None
    earlier = claim(store, traffic, "second")
    assert earlier is not None and earlier.run_id == "first" and "levels of the recordings drifted" in earlier.reason
    write_days(store, traffic.bundle_digest, [worlds["louder"]], first=FIRST_DAY + 3)  # the same drift goes on
    assert claim(store, monitor_traffic(store, "2d", NOW + 86_400), "third") is not None
    write_days(store, traffic.bundle_digest, [worlds["steady 1"], worlds["louder"]], first=FIRST_DAY + 4)
    assert claim(store, monitor_traffic(store, "7d", NOW + 3 * 86_400), "fourth") is None  # another drift
    other = replace(traffic, bundle_digest="f" * 64)
    assert claim(store, other, "fifth") is None  # another bundle


def test_a_drift_goes_on_over_days_that_no_window_showed(store: LocalStore, worlds: dict[str, list[Counts]]) -> None:
    """A timer that failed for a month starts no second run for a drift that was there every day."""
    louder = [sum(worlds["louder"], FIGURES.empty())]  # the whole day in one hour, which is read faster
    digest = make_champion(store, store.root.parent / "bundle", worlds["reference"][0])
    write_days(store, digest, [louder] * 24)

    def claimed(day: int, run_id: str) -> str:
        earlier = claim(store, monitor_traffic(store, "2d", (FIRST_DAY + day) * 86_400.0 + 60), run_id)
        return run_id if earlier is None else earlier.run_id

    assert [claimed(day, f"on day {day}") for day in (1, 4, 23)] == ["on day 1"] * 3
    write_days(store, digest, [louder] * 2, first=FIRST_DAY + 40)  # days without traffic are not days without drift
    assert claimed(42, "after a pause") == "on day 1"
    steady = [sum(worlds["steady 0"], FIGURES.empty())]
    write_days(store, digest, [steady, *[louder] * 20], first=FIRST_DAY + 50)
    assert claimed(71, "another drift") == "another drift"


def test_a_window_of_hours_compares_whole_days(store: LocalStore, worlds: dict[str, list[Counts]]) -> None:
    champion_with(store, worlds, "steady 0", "steady 1")
    morning = (FIRST_DAY + 1) * 86_400.0 + 6 * 3600 + 60
    shown = [
        [(look.day, look.whole, look.turns) for look in monitor_traffic(store, since, morning).comparison.looks]
        for since in ("1h", "12h", "7d")
    ]
    assert shown[1] == shown[2] and shown[0] == shown[1][1:]
    assert [whole for _, whole, _ in shown[1]] == [True, False]


def test_a_run_that_was_not_started_is_forgotten(store: LocalStore, worlds: dict[str, list[Counts]]) -> None:
    traffic = drifted(store, worlds, "louder")
    assert claim(store, traffic, "first") is None
    give_back_retraining(store, traffic, "first")
    assert claim(store, traffic, "second") is None
    store.write(f"{bundle_prefix(traffic.bundle_digest)}/retrainings.json", b"{damaged")
    assert claim(store, traffic, "third") is None


def test_the_claim_of_a_run_that_never_started_is_taken_over(
    store: LocalStore, worlds: dict[str, list[Counts]]
) -> None:
    """The process of the first one was killed before its run started."""
    traffic = drifted(store, worlds, "louder")
    started: list[str] = []

    def claimed(run_id: str, patience: float = 0.0) -> str:
        earlier = claim_retraining(store, traffic, run_id, started.__contains__, patience)
        return run_id if earlier is None else earlier.run_id

    assert claimed("first", 600.0) == "first"
    with pytest.raises(
        MistereError, match=r"run first is being started for this drift, since \d+ s: .* after 10 minutes"
    ):
        claimed("second", 600.0)
    assert claimed("third") == "third"
    started.append("third")  # its process was killed before it said so
    assert claimed("fourth", 600.0) == claimed("fifth") == "third"
    started.clear()  # it is known now, even if the run is deleted
    assert claimed("sixth") == "third"


@pytest.fixture
def posted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, object]]]:
    """The messages that a receiver at the webhook's address got."""
    received: list[dict[str, object]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Silent."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MISTERE_WEBHOOK_URL", f"http://127.0.0.1:{server.server_port}/secret")
    yield received
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("without_plots")
def test_the_webhook_hears_of_drift_only(
    store: LocalStore,
    worlds: dict[str, list[Counts]],
    tmp_path: Path,
    posted: list[dict[str, object]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    digest = champion_with(store, worlds, "steady 0")
    assert monitor(store, "7d", tmp_path / "page.html", now=NOW) == 0 and not posted
    write_days(store, digest, [worlds["louder"]], first=FIRST_DAY + 2)
    assert monitor(store, "7d", tmp_path / "page.html", now=NOW) == 5
    (message,) = posted
    assert str(message["text"]).startswith("mistere: traffic drifted.") and "levels of the recordings" in json.dumps(
        message
    )
    monkeypatch.setenv("MISTERE_WEBHOOK_URL", "http://example.org/secret")
    assert monitor(store, "7d", tmp_path / "page.html", now=NOW) == 5
    assert "was not notified: it is plain http" in (errors := capsys.readouterr().err) and "secret" not in errors
