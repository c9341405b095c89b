"""The outcome of a run that makes a student, its report and its notification."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.report_run.notification import message
from components.report_run.run import STAGE
from mistere.artifacts.object_store import LocalStore
from mistere.config.registry import RegistryConfig
from mistere.engine.execution import execute
from mistere.engine.stage import stage_record_key
from mistere.reports.wording import consequence, headline
from mistere.runs.outcome import read_outcome, report_key
from tests.unit.runs import recorded_runs as runs

WAITING = {"waits_for": runs.WAITS, "state": "waiting", "approvable": "mistere/5", "next": "wait"}
AGAIN = {"model_version": "5", "waits_for": "", "state": "released", "approvable": "mistere/5", "next": "release"}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTERE_CACHE", str(tmp_path / "cache"))


def test_a_student_that_is_the_champion_already_ends_well(tmp_path: Path) -> None:
    run = runs.distilled(tmp_path / "store", AGAIN)
    outcome = read_outcome(run.store, run.run_id)
    assert (outcome.exit_code, outcome.verdict, outcome.is_champion) == (0, "deployed", True)
    assert (
        outcome.reasons[0]
        == "The student is version 5, which a person released before and which is the champion already."
    )
    assert headline(outcome) == "The run made the champion again, a student that a person released before."
    assert "nothing changes" in consequence(outcome, outcome.bundle_digest)
    run.store.delete_object(stage_record_key(run.run_id, "distill_mixture"))
    assert read_outcome(run.store, run.run_id).exit_code == 0


def test_a_run_whose_stages_all_ended_without_an_outcome_is_read(tmp_path: Path) -> None:
    run = runs.distilled(tmp_path / "store", {})
    outcome = read_outcome(run.store, run.run_id)
    assert outcome.verdict == "failed" and "each stage ended" in outcome.reasons[0]


@pytest.mark.parametrize("values", [WAITING, AGAIN])
def test_report_and_notification_compare_a_student_with_its_teacher(values: dict[str, str], tmp_path: Path) -> None:
    run = runs.distilled(tmp_path / "store", values)
    execute(STAGE, run.step().run.model_dump(mode="json"), RegistryConfig(log_report=False).model_dump(mode="json"))
    outcome = read_outcome(LocalStore(tmp_path / "store"), run.run_id)
    assert outcome.teacher and not outcome.champion_before
    assert outcome.champion_difference is not None and abs(outcome.champion_difference.value + 0.004) < 1e-6
    sent = str(message(outcome, "tiny", headline(outcome)))
    assert "Difference to the teacher, paired" in sent and "champion before" not in sent
    page = run.store.read(report_key(run.run_id, "run_report.html"))[0].decode()
    assert "teacher on the same test split" in page and f"<dt>teacher</dt><dd><code>{outcome.teacher}" in page
    assert "previous champion" not in page and "no champion" not in page and "not comparable" not in page
