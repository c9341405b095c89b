"""``mistere schedule``: the file, the diff, applying it, and the parameters of a scheduled run."""

from __future__ import annotations

import json
import re
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.resolve_inputs.run import STAGE, resolve
from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import ArtifactError, ExitCode, UsageError
from mistere.common.paths import PROJECT_ROOT
from mistere.config.modalities import DEFAULT_MODALITIES, sections_with
from mistere.data.latest import LATEST, LatestData
from mistere.data.versions import pin
from mistere.engine.execution import execute
from mistere.engine.run_settings import run_context
from mistere.engine.stage import RunContext
from mistere.runs.outcome import read_outcome, read_run_info, report_key
from mistere.runs.run_info import RunOrigin, write_origin
from pipelines.cli.commands.data.publish import publish
from pipelines.cli.commands.schedule import apply, diff
from pipelines.kubeflow import version
from pipelines.kubeflow.connection.failures import UnavailableError
from pipelines.kubeflow.schedules.cron import check_cron
from pipelines.kubeflow.schedules.plan import MARK
from pipelines.kubeflow.schedules.schedule_file import read_schedules
from pipelines.local_runner import start
from pipelines.profiles import load_profile, pipeline_arguments
from tests.cluster.mounted_pod import MountedCluster, api, mounted, no_token, s3_endpoint, s3_store
from tests.local.workshop import make_dataset, rows
from tests.stand_ins.kfp_api import Trouble

__all__ = ["api", "mounted", "no_token", "s3_endpoint", "s3_store"]
FILE = PROJECT_ROOT / "pipelines" / "schedules.yaml"


class Schedules:
    """A file of schedules, and the commands that use it."""

    def __init__(self, mounted: MountedCluster, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.mounted, self.capsys, self.file = mounted, capsys, folder / "schedules.yaml"
        pinned = {"policy": "pinned", "source": str(mounted.data)}
        self.nightly: dict[str, Any] = {"name": "nightly", "cron": "0 0 2 * * *", "data": pinned}
        self.weekly: dict[str, Any] = {"name": "weekly", "cron": "0 0 3 * * sun", "data": pinned, "enabled": False}

    def write(self, *schedules: dict[str, Any], **options: Any) -> None:
        self.file.write_text(yaml.safe_dump({"profile": "tiny", "schedules": list(schedules), **options}))

    def diff(self) -> tuple[int, list[str]]:
        code = diff(self.file, **self.mounted.options)
        return code, self.capsys.readouterr().out.splitlines()

    def apply(self) -> list[str]:
        assert apply(self.file, **self.mounted.options, allow_dirty=True) == 0
        return self.capsys.readouterr().out.splitlines()

    def on_server(self) -> dict[str, Any]:
        return {entry.display_name: entry for entry in self.mounted.api.schedules.values()}


@pytest.fixture
def schedules(mounted: MountedCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Schedules:
    return Schedules(mounted, tmp_path, capsys)


def test_schedules_refuse_a_local_deployment_before_any_request(schedules: Schedules) -> None:
    schedules.write(schedules.nightly, {**schedules.weekly, "settings": ["deployment.mode=local"]})
    for command in (schedules.diff, schedules.apply):
        with pytest.raises(UsageError, match=r"schedule weekly: deployment\.mode=local deploys no service"):
            command()
    assert not schedules.mounted.api.pipelines and not schedules.mounted.api.schedules


def test_diff_predicts_apply_and_is_empty_afterwards(schedules: Schedules) -> None:
    schedules.write(schedules.nightly, schedules.weekly)
    code, lines = schedules.diff()
    assert code == ExitCode.DIFFERENT and [line[:9] for line in lines] == ["+ nightly", "+ weekly:"]
    assert re.search(r"version \S+-tiny \([0-9a-f]{12}\), data pinned [0-9a-f]{12}", lines[0])
    assert lines[1].endswith(", off") and not schedules.mounted.api.schedules and not schedules.mounted.api.pipelines
    assert schedules.apply()[:2] == lines
    nightly, weekly = schedules.on_server()["nightly"], schedules.on_server()["weekly"]
    assert nightly.trigger["cron_schedule"]["cron"] == "0 0 2 * * *" and nightly.max_concurrency == "1"
    assert nightly.no_catchup is True and (nightly.mode, weekly.mode) == ("ENABLE", "DISABLE")
    assert nightly.service_account == "mistere-pipeline" and nightly.description.startswith(MARK)
    assert len(schedules.mounted.api.versions) == 1 and nightly.namespace == "mistere"
    code, lines = schedules.diff()
    assert code == 0 and lines == [f"2 schedules, as {schedules.file} has them"]
    ids = {entry.recurring_run_id for entry in schedules.on_server().values()}
    schedules.apply()
    assert {entry.recurring_run_id for entry in schedules.on_server().values()} == ids


@pytest.mark.long
def test_a_changed_schedule_is_created_before_the_old_one_is_deleted(schedules: Schedules) -> None:
    schedules.write(schedules.nightly, schedules.weekly)
    schedules.apply()
    before = schedules.on_server()
    changed = {**schedules.nightly, "cron": "0 30 2 * * *", "concurrency": 2, "catch_up": True}
    changed["settings"] = ["gate.min_weighted_f1=0.7", "cluster.service_account=other"]
    schedules.write(changed)
    code, lines = schedules.diff()
    assert code == ExitCode.DIFFERENT
    for line in (
        "- weekly",
        "~ nightly: cron 0 0 2 * * * → 0 30 2 * * *",
        "~ nightly: concurrency 1 → 2",
        "~ nightly: catch_up false → true",
        "~ nightly: service account mistere-pipeline → other",
    ):
        assert line in lines
    assert any(line.startswith("~ nightly: gate.min_weighted_f1 ") and line.endswith("→ 0.7") for line in lines)
    before_apply = len(schedules.mounted.api.requests)
    schedules.apply()
    changes = [
        (method, path) for method, path in schedules.mounted.api.requests[before_apply:] if "recurringruns" in path
    ]
    old = before["nightly"].recurring_run_id
    created = changes.index(("POST", "/apis/v2beta1/recurringruns"))
    assert created < changes.index(("DELETE", f"/apis/v2beta1/recurringruns/{old}"))
    assert set(schedules.on_server()) == {"nightly"} and schedules.diff()[0] == 0


def test_enabling_and_disabling_does_not_recreate_a_schedule(schedules: Schedules) -> None:
    schedules.write(schedules.nightly)
    schedules.apply()
    kept = schedules.on_server()["nightly"].recurring_run_id
    for enabled, words in ((False, "~ nightly: on → off"), (True, "~ nightly: off → on")):
        schedules.write({**schedules.nightly, "enabled": enabled})
        assert schedules.diff() == (5, [words])
        schedules.apply()
        now = schedules.on_server()["nightly"]
        assert now.recurring_run_id == kept and now.mode == ("ENABLE" if enabled else "DISABLE")


@pytest.mark.long
def test_schedules_are_deleted_and_switched_from_a_dirty_tree(
    schedules: Schedules, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedules.write(schedules.nightly, schedules.weekly)
    schedules.apply()
    monkeypatch.setattr(version, "git_state", lambda: ("a" * 40, True))
    schedules.write({**schedules.nightly, "enabled": False})
    schedules.capsys.readouterr()
    assert apply(schedules.file, **schedules.mounted.options) == 0
    printed = schedules.capsys.readouterr().out.splitlines()
    assert printed == ["- weekly", "~ nightly: on → off", f"1 schedule, as {schedules.file} has it"]
    assert {name: entry.mode for name, entry in schedules.on_server().items()} == {"nightly": "DISABLE"}
    schedules.write(schedules.nightly, schedules.weekly)
    with pytest.raises(UsageError, match="uncommitted changes"):
        apply(schedules.file, **schedules.mounted.options)
    assert {name: entry.mode for name, entry in schedules.on_server().items()} == {"nightly": "DISABLE"}


def test_unmanaged_schedules_are_kept_and_a_deleted_version_is_uploaded_again(schedules: Schedules) -> None:
    schedules.write(schedules.nightly)
    schedules.apply()
    api, managed = schedules.mounted.api, schedules.on_server()["nightly"]
    unmanaged = type(managed)(**{name: getattr(managed, name) for name in managed.attribute_map})
    unmanaged.recurring_run_id, unmanaged.description, unmanaged.display_name = "theirs", "by hand", "nightly"
    api.schedules["theirs"] = unmanaged
    api.versions.clear()
    code, (line,) = schedules.diff()
    assert code == ExitCode.DIFFERENT and line.startswith("~ nightly: version deleted → ")
    schedules.apply()
    assert "theirs" in api.schedules and len(api.schedules) == 2 and len(api.versions) == 1
    schedules.write()
    assert schedules.diff() == (5, ["- nightly"])
    schedules.apply()
    assert list(api.schedules) == ["theirs"]


@pytest.mark.long
def test_the_next_apply_completes_an_interrupted_one(schedules: Schedules) -> None:
    schedules.write(schedules.nightly)
    schedules.apply()
    schedules.write({**schedules.nightly, "cron": "0 0 4 * * *"})
    schedules.mounted.api.troubles = [Trouble("DELETE", "", 503, times=9)]
    with pytest.raises(UnavailableError):
        schedules.apply()
    schedules.mounted.api.troubles = [Trouble("POST", "recurringruns$", 504, done=True)]
    schedules.capsys.readouterr()
    assert schedules.diff() == (5, ["~ nightly: 1 left over from an interrupted apply"])
    schedules.apply()
    assert [entry.trigger["cron_schedule"]["cron"] for entry in schedules.mounted.api.schedules.values()] == [
        "0 0 4 * * *"
    ]
    schedules.write(schedules.nightly)
    schedules.apply()
    assert len(schedules.mounted.api.schedules) == 1


def test_a_failed_recreation_keeps_the_old_schedule(schedules: Schedules) -> None:
    schedules.write(schedules.nightly)
    schedules.apply()
    schedules.write({**schedules.nightly, "cron": "0 0 4 * * *"})
    schedules.mounted.api.troubles = [Trouble("POST", "recurringruns$", 503, times=9)]
    with pytest.raises(UnavailableError):
        schedules.apply()
    assert [entry.trigger["cron_schedule"]["cron"] for entry in schedules.mounted.api.schedules.values()] == [
        "0 0 2 * * *"
    ]
    schedules.mounted.api.troubles.clear()
    schedules.apply()
    assert [entry.trigger["cron_schedule"]["cron"] for entry in schedules.mounted.api.schedules.values()] == [
        "0 0 4 * * *"
    ]


def test_all_pages_of_a_list_are_read(schedules: Schedules) -> None:
    schedules.mounted.api.page_limit = 2
    named = [{**schedules.nightly, "name": f"nightly-{number}"} for number in range(5)]
    schedules.write(*named)
    schedules.apply()
    assert schedules.diff()[0] == 0
    schedules.write()
    assert len(schedules.apply()) == 6 and not schedules.mounted.api.schedules


def test_a_scheduled_run_has_a_unique_id_and_uses_the_latest_data(
    schedules: Schedules, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.resolve_inputs.preflight.check_tracking", lambda uri: None)  # there is no server
    mounted = schedules.mounted
    schedules.write({**schedules.nightly, "data": {"policy": "latest"}})
    with pytest.raises(UsageError, match=r"needs published data, and there is none.*mistere data publish"):
        schedules.apply()
    publish(str(mounted.data), "tiny", [], mounted.store.uri)
    schedules.apply()
    runs = [mounted.api.fire(schedules.on_server()["nightly"]) for _ in range(2)]
    contexts = []
    for run in runs:
        parameters = run.runtime_config["parameters"]
        assert not parameters["run"]["data_digest"] and not parameters["run"]["data_remote"]
        assert run_context(parameters["run"], run.run_id) == run_context(parameters["run"], run.run_id)
        sections = {name: parameters[name] for name in sections_with(DEFAULT_MODALITIES)}
        context, values, *_ = resolve(parameters["run"], run.run_id, {}, sections)
        latest = LATEST.read(mounted.store).value
        assert latest and (values["data_digest"], values["data_remote"]) == (latest.digest, latest.remote)
        info = read_run_info(mounted.store, context["run_id"])
        assert info["data"]["dvc_digest"] == latest.digest and info["config"]["gate"] and info["started"] > 0
        assert info["commit"] == context["commit"]
        contexts.append(context)
    assert [context["run_id"] for context in contexts] == [f"nightly-{run.run_id}" for run in runs]
    assert mounted.store.exists(f"runs/{contexts[0]['run_id']}/stages/resolve_inputs.json")
    mounted.store.delete("schedules")
    with pytest.raises(ArtifactError, match="mistere schedule apply"):
        execute(STAGE, {**contexts[0], "data_digest": ""}, {})
    mounted.store.delete_object(LATEST.key)
    with pytest.raises(UsageError, match="no data has been published"):
        execute(STAGE, {**contexts[1], "data_digest": ""}, {})


@pytest.mark.long
def test_all_tasks_of_a_scheduled_run_share_one_id_locally(tmp_path: Path) -> None:
    store, tones = LocalStore(tmp_path / "store"), make_dataset(tmp_path / "tones", islice(rows(audio=False), 4))
    pinned = pin(str(tones), str(tmp_path / "remote"))
    latest = LatestData(digest=pinned.digest, remote=pinned.remote, published_at=1.0)
    LATEST.move(store, LATEST.read(store).version, latest)
    config = load_profile("tiny")
    write_origin(store, "nightly/0123", RunOrigin.of(config, ["mistere"], "latest", None))
    tracking = f"sqlite:///{tmp_path / 'mlflow.db'}"
    context = RunContext(run_id="nightly", store=store.uri, tracking_uri=tracking, schedule="nightly/0123")
    (tmp_path / "arguments.json").write_text(json.dumps(pipeline_arguments(config, context)))
    with (tmp_path / ".lock").open("w") as lock:
        started = start(tmp_path / "arguments.json", tmp_path / "kfp", tmp_path / "events", tmp_path / "log", lock)
        started.process.wait(timeout=300)
    (run_id,) = {key.split("/")[1] for key in store.keys("runs")}
    outcome = read_outcome(store, run_id)
    assert run_id.startswith("nightly-") and outcome.exit_code == ExitCode.DATA_REJECTED
    assert [record.task for record in outcome.stages] == ["resolve_inputs", "pull_data", "report_run"]
    assert "has no dev split" in outcome.reasons[0] and store.exists(report_key(run_id, "run_report.html"))


def test_a_context_without_a_schedule_is_unchanged_and_one_without_a_job_is_rejected() -> None:
    context = {"run_id": "20261125-1", "store": "s", "tracking_uri": "t"}
    assert run_context(context, "{{$.pipeline_job_uuid}}").run_id == "20261125-1"
    with pytest.raises(UsageError, match=r"upgrade it to 2\.0\.2 or later"):
        run_context({**context, "schedule": "nightly/0123"}, "{{$.pipeline_job_uuid}}")


def test_publishing_moves_a_pointer(mounted: MountedCluster, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ("is the latest data (", "is the latest data already ("):
        publish(str(mounted.data), "tiny", [], mounted.store.uri)
        assert words in capsys.readouterr().out
    kept = json.loads(mounted.store.read(LATEST.key)[0])
    assert kept["remote"].startswith("s3://") and kept["source"] == str(mounted.data)
    earlier = {**kept, "digest": "f" * 32 + ".dir", "checksum": ""}  # as before pointers had a checksum
    mounted.store.write(LATEST.key, json.dumps(earlier).encode())
    publish(str(mounted.data), "tiny", [], mounted.store.uri)
    assert "is the latest data, after ffffffffffff (" in capsys.readouterr().out
    mounted.store.write(LATEST.key, b"{half")
    with pytest.raises(ArtifactError, match="is damaged"):
        publish(str(mounted.data), "tiny", [], mounted.store.uri)


def test_the_included_schedule_file_is_valid() -> None:
    listed = read_schedules(FILE)
    assert [schedule.name for schedule in listed.schedules] == ["nightly", "monthly-gpu"]


@pytest.mark.parametrize(
    ("text", "message_part"),
    [
        ("schedules: [{name: a, cron: 0 2 * * *}]", "schedule a: cron: '0 2 * * *' has 5 fields"),
        ("schedules: [{name: a, corn: 0 0 2 * * *}]", "schedule a: unknown key 'corn'; did you mean 'cron'?"),
        ("schedules: [{name: a}]", "schedule a: cron: Field required"),
        ("schedules: [{cron: 0 0 2 * * *}]", "schedule 0: name: Field required"),
        ("schedules: [{name: A b, cron: 0 0 2 * * *}]", "schedule A b: name: String should match"),
        ("schedules: [{name: a, cron: 0 0 2 * * *}, {name: a, cron: 0 0 3 * * *}]", "two schedules are called 'a'"),
        ("schedules: [{name: a, cron: 0 0 2 * * *, data: {policy: last}}]", "data.policy: Input should be 'pinned' or"),
        ("schedules: [{name: a, cron: 0 0 2 * * *, data: {polcy: latest}}]", "unknown key 'polcy'; did you mean"),
        ("schedules: [{name: a, cron: 0 0 2 * * *, data: {policy: latest, source: x}}]", "takes no source"),
        ("schedules: [{name: a, cron: 0 0 2 * * *, concurrency: 11}]", "concurrency: Input should be less than"),
        ("schedule: []", "unknown key 'schedule'; did you mean 'schedules'?"),
        ("schedules: 7", "schedules: Input should be a valid list"),
        ("[1", "is not valid YAML"),
        ("- a", "holds no schedules"),
    ],
)
def test_an_invalid_file_is_one_sentence(tmp_path: Path, text: str, message_part: str) -> None:
    file = tmp_path / "schedules.yaml"
    file.write_text(text)
    with pytest.raises(UsageError) as error:
        read_schedules(file)
    assert message_part in str(error.value) and "\n" not in str(error.value) and str(file) in str(error.value)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file of schedules at"):
        read_schedules(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("entry", "message_part"),
    [
        (
            {"pipeline": "distillation", "data": {"policy": "latest"}},
            "the pipeline distillation does not read the latest",
        ),
        ({"pipeline": "monitoring", "data": {"policy": "latest"}}, "the pipeline monitoring does not read the latest"),
        ({"pipeline": "distillation", "settings": ["gate.champion_margin=0.1"]}, "gate.champion_margin: a student is"),
    ],
)
def test_what_counts_for_nothing_in_a_schedule_is_refused(
    schedules: Schedules, entry: dict[str, Any], message_part: str
) -> None:
    schedules.write({"name": "odd", "cron": "0 0 2 * * *", **entry})
    with pytest.raises(UsageError) as error:
        schedules.diff()
    assert f"schedule odd: {message_part}" in str(error.value)


def test_a_schedule_for_another_namespace_is_rejected(schedules: Schedules) -> None:
    schedules.write(schedules.nightly, {**schedules.weekly, "settings": ["cluster.namespace=other"]})
    with pytest.raises(UsageError, match="give each namespace a file of its own"):
        schedules.diff()


@pytest.mark.parametrize("cron", ["0 0 2 * * *", "*/5 1-3,7 0 ? jan-Mar MON-fri", "0 0/15 * 1 12 0", "0  0 2 * * 6"])
def test_valid_cron_expressions_are_accepted(cron: str) -> None:
    assert check_cron(cron) == " ".join(cron.split())


@pytest.mark.parametrize(
    ("cron", "message_part"),
    [
        ("60 0 2 * * *", "'60' is not a valid second: the range is 0 to 59"),
        ("0 0 24 * * *", "'24' is not a valid hour"),
        ("0 0 0 0 * *", "'0' is not a valid day of the month: the range is 1 to 31"),
        ("0 0 0 * 13 *", "'13' is not a valid month"),
        ("0 0 0 * * 7", "'7' is not a valid day of the week: the range is 0 to 6, or sun"),
        ("0 0 0 * * someday", "'someday' is not a valid day of the week"),
        ("0 5-2 0 * * *", "the range ends before it begins"),
        ("0 */0 0 * * *", "the step must be at least 1"),
        ("0 *-3 0 * * *", "a range needs a number on both sides"),
        ("0 -1 0 * * *", "'-1' is not a valid minute: write *"),
        ("@daily", "has 1 fields"),
    ],
)
def test_invalid_cron_expressions_are_rejected(cron: str, message_part: str) -> None:
    with pytest.raises(ValueError, match="") as error:
        check_cron(cron)
    assert message_part in str(error.value)
