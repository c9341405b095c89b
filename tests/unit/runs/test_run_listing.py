"""``mistere runs``, ``report`` and ``models --history`` on recorded runs, and how their tables fit a width."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mistere.artifacts.manifests import EvaluationReport
from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import ArtifactError, MistereError, UsageError
from mistere.registry.lineage import Lineage, lineage_key, write_lineage
from mistere.registry.release.promotion_log import PromotionEvent, add
from mistere.runs.listing import find_run, run_ids, summarize_run
from mistere.runs.outcome import SAME_MODEL, read_outcome
from pipelines.cli.commands.registry.history import print_history
from pipelines.cli.commands.run_records import report as report_command
from pipelines.cli.commands.run_records.report import report
from pipelines.cli.commands.run_records.runs import runs as list_runs
from pipelines.cli.doctor.groups.records import check_records
from pipelines.cli.output.gate_table import last_run, markdown
from pipelines.cli.output.tables import Column, print_table
from tests.unit.runs import recorded_runs as runs
from tests.unit.runs.recorded_run import RecordedRun

REPORT = {
    "time": {"wall_seconds": 754.0},
    "outcome": {"verdict": "held"},
    "metrics": {"test.weighted_f1": 0.61, "test.weighted_f1.low": 0.58, "test.weighted_f1.high": 0.64},
    "bundle": {"digest": "", "location": ""},
}


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    """Three runs: one with a report, one without, and one that has not ended."""
    ended = runs.rejected(tmp_path / "store").store
    for run_id, started in (("20260301-120000-aaaa", 1_772_366_400.0), ("20260302-120000-bbbb", 1_772_452_800.0)):
        RecordedRun(tmp_path / "store", run_id=run_id).start(started=started, dirty=False)
    ended.write("runs/20260301-120000-aaaa/reports/run_report.json", json.dumps(REPORT).encode())
    ended.write("runs/20260301-120000-aaaa/reports/run_report.html", b"<p>held</p>")
    return ended


def test_runs_are_listed_newest_first(store: LocalStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_ids(store) == ["20260302-120000-bbbb", "20260301-120000-aaaa", "run-0042"]
    list_runs(tmp_path, None, 20, as_json=True)
    unfinished, held, rejected = json.loads(capsys.readouterr().out)
    assert unfinished["outcome"] == "unfinished" and unfinished["seconds"] is None and unfinished["report"] == ""
    assert held["outcome"] == "held" and held["seconds"] == 754.0 and held["weighted_f1"]["low"] == 0.58
    assert held["report"].endswith("/runs/20260301-120000-aaaa/reports/run_report.html")
    assert rejected["outcome"] == "rejected" and rejected["weighted_f1"]["value"] > 0.5
    list_runs(tmp_path, None, 2, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["20260302-120000-bbbb", "2026-03-02", "12:00", "sample", "unfinished", "4f2a9c1d7b"]
    assert "13 min" in lines[2] and "0.610 (0.580 to 0.640)" in lines[2]
    assert lines[3] == "1 earlier run not shown: --limit 0 lists all." and len(lines) == 4
    with pytest.raises(UsageError, match="nothing has run in"):
        list_runs(tmp_path / "nowhere", None, 2, as_json=False)


def test_a_run_is_found_by_the_start_of_its_id(store: LocalStore, tmp_path: Path) -> None:
    assert find_run(store, None) == find_run(store, "20260302") == "20260302-120000-bbbb"
    assert find_run(store, "run-0042") == "run-0042"
    with pytest.raises(
        UsageError, match=r"'202603' is the start of 2 runs \(20260302-120000-bbbb, .*\): write more of it"
    ):
        find_run(store, "202603")
    for reference in ("nothing", "", "../champion.json"):
        with pytest.raises(UsageError, match=r"has no run '.*': `mistere runs` lists those that it has"):
            find_run(store, reference)
    with pytest.raises(UsageError, match="has no run: start one with `mistere run`"):
        find_run(LocalStore(tmp_path / "empty"), None)


def test_the_report_of_a_run_is_shown_and_opened(
    store: LocalStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(report_command.webbrowser, "open", lambda uri: not opened.append(uri))
    report("run-0042", tmp_path, None, open_page=False, as_json=False)
    shown = capsys.readouterr().out
    assert "run run-0042\nREJECTED\n" in shown and runs.WORSE in shown and "reports/run_report.html" in shown
    assert "log " not in shown, "there is no log of a run on another machine"
    report("20260301", tmp_path, None, open_page=True, as_json=True)
    assert json.loads(capsys.readouterr().out) == REPORT
    assert opened == [(tmp_path / "store/runs/20260301-120000-aaaa/reports/run_report.html").as_uri()]
    report(None, tmp_path, None, open_page=False, as_json=False)
    assert "run 20260302-120000-bbbb is still running, or was interrupted" in capsys.readouterr().out
    with pytest.raises(MistereError, match="run 20260302-120000-bbbb has no report, because it is still running"):
        report("20260302", tmp_path, None, open_page=True, as_json=False)
    monkeypatch.setattr(report_command.webbrowser, "open", lambda uri: False)
    with pytest.raises(
        MistereError, match=r"no browser could be opened on this machine: open .*run_report.html yourself"
    ):
        report("20260301", tmp_path, None, open_page=True, as_json=True)


def lineage_of(run: RecordedRun, bundle: str, evaluation: str, **artifacts: str) -> None:
    write_lineage(
        run.store,
        Lineage.model_validate(
            {
                "model_name": "mistere", "run_id": run.run_id, "commit": "c" * 40, "bundle_digest": bundle,
                "bundle_location": run.store.location(f"artifacts/ModelBundle/{bundle}"), "evaluation_digest": evaluation,
                "test_digest": "t" * 64, "verdict": "promote", "dataset": "tones", "dvc_digest": f"{'d' * 32}.dir",
                "data_remote": "s3://bucket/data", "artifacts": artifacts,
            }
        ),
    )  # fmt: skip


def promotion(store: LocalStore, at: float, version: str, after: str, **fields: Any) -> None:
    given = {
        "action": "deploy",
        "outcome": "done",
        "before": "none",
        "reason": "It passed.",
        "by": "ann@host",
        **fields,
    }
    add(store, PromotionEvent(at=at, version=version, after=after, **given))


def test_history_has_the_figures_of_each_champion(tmp_path: Path) -> None:
    run = RecordedRun(tmp_path)
    figures = {
        "test.weighted_f1": 0.6,
        "test.weighted_f1.low": 0.55,
        "test.weighted_f1.high": 0.65,
        "test.accuracy": 0.7,
    }
    fields: dict[str, Any] = {
        "labels": ["a", "b"], "experts": ["text", "cross_modal"], "confusion": [[1, 0], [0, 1]],
        "utterances": 2, "dialogues": 1,
    }  # fmt: skip
    first = run.publish(EvaluationReport(**fields, metrics=figures, test_digest="1" * 64), "evaluate_model")
    second = run.publish(
        EvaluationReport(**fields, metrics={**figures, "test.weighted_f1": 0.64}, test_digest="2" * 64),
        "evaluate_model",
    )
    bundles = ["a" * 64, "b" * 64, "c" * 64]
    lineage_of(run, bundles[0], first)
    lineage_of(run, bundles[1], second)
    promotion(run.store, 1e9, "1", bundles[0])
    promotion(run.store, 1e9 + 60, "1", bundles[0])
    promotion(run.store, 1e9 + 3600, "2", bundles[1], before=bundles[0])
    promotion(run.store, 1e9 + 7200, "3", bundles[2], outcome="undone", before=bundles[1])
    promotion(run.store, 1e9 + 86_400, "3", bundles[2], action="promote", before=bundles[1])

    text = io.StringIO()
    print_history(Console(file=text, width=10_000, highlight=False), run.store, "mistere", as_json=False)
    head, one, two, three, *notes = text.getvalue().splitlines()
    assert head.split("  ")[0] == "since (UTC)"
    assert one.split() == [
        "2001-09-09",
        "01:46",
        "60",
        "min",
        "deploy",
        "1",
        "0.600",
        "(0.550",
        "to",
        "0.650)",
        "0.700",
        "11111111",
        "tones",
        "dddddddd",
    ]
    assert "23.0 h" in two and "0.640 (0.550 to 0.650)" in two and "22222222" in two
    assert three.split() == ["2001-09-10", "01:46", "now", "promote", "3"]
    assert notes[0] == "Figures of different test splits are not comparable."
    assert notes[1].startswith("Version 3 has no figures: bundle cccccccccccc has no lineage")


def test_json_history_is_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = LocalStore(tmp_path)
    print_history(Console(), store, "mistere", as_json=True)
    assert json.loads(capsys.readouterr().out) == []
    promotion(store, 5.0, "1", "a" * 64)
    print_history(Console(), store, "mistere", as_json=True)
    (reign,) = json.loads(capsys.readouterr().out)
    assert (reign["since"], reign["until"], reign["version"], reign["weighted_f1"]) == (5.0, None, "1", None)
    assert "has no lineage" in reign["unknown"]


def table_at(width: int, *, terminal: bool = True) -> list[str]:
    columns = (Column("run"), Column("took", right=True, drop=2), Column("digest", drop=1), Column("why", folds=True))
    rows = [("20260301-120000-aaaa", "12 min", "f" * 30, "because " * 12), ("b", "1 s", "", "no [bold]markup[/bold]")]
    text = io.StringIO()
    print_table(Console(file=text, width=width, force_terminal=terminal, color_system=None), columns, rows)
    return text.getvalue().splitlines()


def test_tables_fit_the_width_of_a_terminal_and_are_complete_in_a_pipe() -> None:
    for width in (60, 80, 120):
        lines = table_at(width)
        assert max(map(len, lines)) <= width and "20260301-120000-aaaa" in lines[1]
        assert not [line for line in lines if "…" in line]
        assert (lines[-1] == "Not shown at this width: took. --json has all columns.") == (width == 80)
    assert (
        " ".join(table_at(60)[-2:]).replace("  ", " ")
        == "Not shown at this width: took, digest. --json has all columns."
    )
    head, first, second = table_at(10_000, terminal=False)
    assert first.endswith(" because because") and "f" * 30 in first and second.endswith("no [bold]markup[/bold]")
    assert head.index("digest") == first.index("fff")


def test_a_rejected_run_that_made_the_champion_again_says_so(tmp_path: Path) -> None:
    run = runs.rejected(tmp_path)
    outcome = read_outcome(run.store, run.run_id)
    assert not outcome.is_champion and SAME_MODEL not in outcome.reasons
    made = {task: record.outputs for record in outcome.stages if (task := record.task)}
    artifacts = {
        "speech encoder": made["finetune_encoder-speech"]["encoder"],
        "text encoder": made["finetune_encoder-text"]["encoder"],
        "mixture": made["train_moe"]["model"],
    }
    lineage_of(run, outcome.champion_before, "e" * 64, **artifacts)
    again = read_outcome(run.store, run.run_id)
    assert again.is_champion and again.reasons[0] == SAME_MODEL and again.exit_code == 3
    run.store.delete_object(lineage_key(outcome.champion_before))
    lineage_of(run, outcome.champion_before, "e" * 64, **{**artifacts, "mixture": "f" * 64})
    assert not read_outcome(run.store, run.run_id).is_champion


def test_damage_to_the_records_of_a_run_is_named(
    store: LocalStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where only the start of ``run.json`` was written, or a byte was changed that leaves it valid JSON."""
    latest, held, rejected = run_ids(store)
    store.write(f"runs/{latest}/run.json", store.read(f"runs/{latest}/run.json")[0][:90])
    store.write(f"runs/{held}/reports/run_report.json", b"[1, 2")
    gate = f"runs/{rejected}/stages/gate_model.json"
    store.write(gate, store.read(gate)[0].replace(b'"reject"', b'"rejecu"'))
    summaries = [summarize_run(store, run_id) for run_id in (latest, held, rejected)]
    assert [summary.outcome for summary in summaries] == ["unfinished", "unfinished", "unknown"]
    assert summaries[1].started is not None and summaries[1].started < time.time()
    names = [f"runs/{latest}/run.json", f"runs/{held}/reports/run_report.json", gate]
    for as_json in (False, True):
        with pytest.raises(ArtifactError, match="3 records of runs cannot be read because of damage") as error:
            list_runs(tmp_path, None, 20, as_json=as_json)
        assert all(name in str(error.value) for name in names) and rejected in capsys.readouterr().out
    for run_id, name in zip((latest, held, rejected), names, strict=True):
        with pytest.raises(ArtifactError, match=f"{name} of run {run_id} is damaged; restore it"):
            report(run_id, tmp_path, None, open_page=False, as_json=False)
    assert "How the run ended is unknown" in capsys.readouterr().out
    with pytest.raises(ArtifactError, match=f"the report .*{names[1]} is damaged"):
        report(held, tmp_path, None, open_page=False, as_json=True)
    assert "run.json is damaged" in markdown(store, latest).replace("\\", "")
    with pytest.raises(ArtifactError, match=f"{names[0]} is damaged"):
        last_run(store, "4f2a9c1d7be0")
    result = check_records(store)
    assert result.status == "note" and all(name in result.sentence for name in names)
    store.write("champion.json", b"{}")
    assert check_records(store).status == "failed"
