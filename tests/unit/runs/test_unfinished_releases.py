"""Releases that are not finished: who names them, in which words, and what the start of a run does about them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from components.report_run.run import run as report_run
from components.resolve_inputs import run as resolve_inputs
from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import MistereError
from mistere.config.deployment import DeploymentConfig
from mistere.config.registry import RegistryConfig
from mistere.data.latest import LATEST, LatestData
from mistere.engine.finished_run import INPUTS_VALUE
from mistere.registry.mlflow import model_registry
from mistere.registry.release.champion import Champion
from mistere.registry.release.journal import read_journal
from mistere.registry.release.unfinished import take_back_abandoned, unfinished_releases
from mistere.runs import unattended, webhook
from mistere.runs.outcome import read_outcome
from mistere.runs.unattended import unattended_releases
from mistere.serving.deployment import journal_key
from pipelines.cli.doctor.groups.records import check_releases
from tests.unit.runs.recorded_run import RecordedRun
from tests.unit.runs.test_release import Mirror, state
from tests.unit.runs.test_release_leases import left_by

_GATEWAY = {"mode": "standard", "gateway": {"name": "public"}}
_ELSEWHERE = {"host": "laptop", "machine": "another boot"}


def interrupted(store: LocalStore, hours: float, settings: dict[str, Any] | None = None, **fields: Any) -> str:
    """The sentence on a release of b whose process gave its last sign some hours ago."""
    left = left_by(store, **_ELSEWHERE)
    config = DeploymentConfig.model_validate(settings or {})
    deployment = left.deployment.model_copy(update={"mode": config.mode, "settings": config.model_dump(mode="json")})
    if "champion" in fields:  # one that the release has not moved there
        fields["champion"] = left.champion.model_copy(update={"moved_at": 5.0})
    store.write(journal_key("mistere"), left.model_copy(update={"deployment": deployment, **fields}).sealed())
    os.utime(store.local_path(journal_key("mistere")), (time.time() - 3600 * hours - 1,) * 2)
    (release,) = unfinished_releases(store)
    return release.sentence()


SENTENCES = {
    "with a share": (
        (5.2, _GATEWAY, {"share": 10}),
        "The release of version 2 to mistere (by somebody) was interrupted 5 hours ago on laptop, and the version may have 10 % of the "
        "requests: `mistere rollback --unfinished`, or the next run, takes it back.",
        "failed",
    ),
    "before its first share": (
        (30, _GATEWAY, {}),
        "The release of version 2 to mistere (by somebody) was interrupted 1 day ago on laptop: `mistere rollback --unfinished`, or the next run, takes it "
        "back.",
        "note",
    ),
    "pod by pod": (
        (1, {"mode": "standard"}, {}),
        "The release of version 2 to mistere (by somebody) was interrupted 1 hour ago on laptop, and the version may have a part of the "
        "requests: `mistere rollback --unfinished`, or the next run, takes it back.",
        "failed",
    ),
    "with all requests, before the champion moved": (
        (5, _GATEWAY, {"state": "deployed", "share": 0, "champion": None}),
        "The release of version 2 to mistere (by somebody) was interrupted 5 hours ago on laptop, and the version may have all requests: "
        "`mistere rollback --unfinished`, or the next run, takes it back.",
        "failed",
    ),
    "without shares": (
        (5, {**_GATEWAY, "canary": {"steps": []}}, {}),
        "The release of version 2 to mistere (by somebody) was interrupted 5 hours ago on laptop, and the version may have all requests: "
        "`mistere rollback --unfinished`, or the next run, takes it back.",
        "failed",
    ),
    "on a laptop": (
        (2, None, {}),
        "The release of version 2 to mistere (by somebody) was interrupted 2 hours ago on laptop: `mistere rollback --unfinished`, or the next run, takes "
        "it back.",
        "note",
    ),
    "after the champion had moved": (
        (2, _GATEWAY, {"state": "deployed", "share": 100}),
        "The release of version 2 to mistere (by somebody) was interrupted 2 hours ago on laptop, after it had moved the champion: `mistere "
        "promote mistere/2`, or the next run, completes it.",
        "note",
    ),
    "in progress": (
        (0, _GATEWAY, {"share": 50}),
        "Version 2 is being released to mistere (by somebody), on laptop and gets 50 % of the requests.",
        "note",
    ),
    "by hand": (
        (72, _GATEWAY, {"state": "canary", "share": 10}),
        "Version 2 has had 10 % of the requests of mistere for 3 days, as a canary by hand (by somebody): `mistere promote mistere/2` releases "
        "it, `mistere rollback --unfinished` takes it back.",
        "note",
    ),
}


@pytest.mark.parametrize("name", SENTENCES)
def test_an_unfinished_release_is_named_with_its_share_and_age(tmp_path: Path, name: str) -> None:
    (hours, settings, fields), expected, status = SENTENCES[name]
    store = LocalStore(tmp_path)
    assert interrupted(store, hours, settings, **fields) == expected
    result = check_releases(store)
    assert (result.status, result.sentence) == (status, expected)


def test_a_finished_and_a_damaged_journal_are_left_out(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert check_releases(store).status == "ok"
    left_by(store, state="done")
    store.write(journal_key("other"), b"{")
    assert unfinished_releases(store) == [] and check_releases(store).sentence == "none is unfinished."


@pytest.mark.parametrize(
    ("hours", "fields", "told"),
    [
        (0, {"share": 10}, False),
        (1, {"share": 10}, True),
        (1, {"share": 10, "state": "canary"}, False),
        (25, {"share": 10, "state": "canary"}, True),
    ],
)
def test_the_webhook_hears_of_a_release_that_nobody_attends_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: float, fields: dict[str, Any], told: bool
) -> None:
    store, posted, notes = LocalStore(tmp_path), [], []
    monkeypatch.setenv(webhook.VARIABLE, "https://hooks.example.org/services/x")
    monkeypatch.setattr(webhook, "post_message", lambda _url, message: posted.append(message))
    sentence = interrupted(store, hours, _GATEWAY, **fields)
    unattended_releases(store, notes.append)
    assert notes == [sentence] * told and [one["text"] for one in posted] == [f"mistere: {sentence}"] * told


def test_a_store_that_does_not_answer_fails_no_monitoring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise MistereError("the store does not answer.")

    notes: list[str] = []
    monkeypatch.setattr(unattended, "unfinished_releases", fail)
    unattended_releases(LocalStore(tmp_path), notes.append)
    assert notes == ["whether a release is unfinished is unknown: the store does not answer."]


def test_the_start_of_a_run_takes_back_what_a_killed_process_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path)
    left_by(store, since=0.0)
    LATEST.move(
        store, LATEST.read(store).version, LatestData(digest="a" * 32, remote="s3://bucket/dvc", published_at=1.0)
    )
    mirror = Mirror()
    monkeypatch.setattr(resolve_inputs, "mirror_champion", lambda _uri, champion: mirror(champion))
    monkeypatch.setattr(resolve_inputs, "preflight", lambda *_: ())
    step, notes = RecordedRun(store.root).step(), []
    monkeypatch.setattr(step.progress, "note", notes.append)
    result = resolve_inputs.run(resolve_inputs.RunParameters(), step)
    assert notes == ["A release that was interrupted before it had moved the champion was rolled back."]
    assert unfinished_releases(store) == [] and result.values["champion_digest"][0] == state(store)[0]
    assert result.values[INPUTS_VALUE] == ""


def test_what_cannot_be_taken_back_at_the_start_of_a_run_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's own release tries again, and reports its failure."""

    def away(_: Champion) -> None:
        raise MistereError("the MLflow server did not take it.")

    store, notes = LocalStore(tmp_path), []
    left_by(store, since=0.0, host="laptop")
    take_back_abandoned(store, away, "mistere", notes.append)
    assert notes == [
        "what an interrupted release has left could not be taken back yet: The MLflow server did not take it."
    ]
    assert unfinished_releases(store)[0].abandoned, "whoever comes next need not wait for the end of a lease"
    record = read_journal(store, "mistere")
    assert record is not None and record[0].event is not None and record[0].host == "laptop"
    began = record[0].event.model_copy(update={"at": time.time() - 7300})
    store.write(journal_key("mistere"), record[0].model_copy(update={"event": began}).sealed())
    assert "was interrupted 2 hours ago on laptop" in unfinished_releases(store)[0].sentence()
    store.write(journal_key("mistere"), b"{")
    take_back_abandoned(store, away, "mistere", notes.append)
    assert "is damaged" in notes[-1]


def test_a_run_hears_of_a_canary_by_hand_and_of_other_services(tmp_path: Path) -> None:
    store, notes = LocalStore(tmp_path), []
    interrupted(store, 3, _GATEWAY, state="canary", share=10)
    other = left_by(store, "other", since=0.0)
    killed = other.model_copy(update={"champion": other.champion.model_copy(update={"moved_at": 5.0})})
    store.write(journal_key("other"), killed.sealed())
    take_back_abandoned(store, Mirror(), "mistere", notes.append)
    assert notes[0].endswith("takes it back. Until then no other version is released.")
    assert notes[1].startswith("The release of version 2 to other (by somebody) was interrupted") and len(notes) == 2
    assert len(unfinished_releases(store)) == 2


def test_the_outcome_of_a_run_says_what_became_of_its_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a release that ended on this machine: the kernel kills the step, not the runner."""
    store = LocalStore(tmp_path)
    left = left_by(store, since=0.0)
    assert left.event is not None
    of_run = left.model_copy(update={"event": left.event.model_copy(update={"action": "deploy"})})
    store.write(journal_key("mistere"), of_run.sealed())
    monkeypatch.setattr(model_registry, "mirror_champion", lambda *_: None)
    recorded = RecordedRun(store.root, run_id="run-b")
    values = report_run(RegistryConfig(log_report=False), recorded.step()).values
    assert values["release"] == "A release that was interrupted before it had moved the champion was rolled back."
    recorded.record("report_run", "reused", values=dict(values))
    assert read_outcome(store, "run-b").reasons[0] == values["release"]
