"""``mistere submit``: uploads, records in the store, reuse of earlier runs, and rejections."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mistere.artifacts.s3.store import S3Store
from mistere.common.errors import MistereError, UsageError
from mistere.registry.release.champion import Champion, move_champion, read_champion
from pipelines.cli.commands import submit as submit_module
from pipelines.cli.commands.submit import submit
from pipelines.kubeflow.connection.client import Pipelines
from pipelines.kubeflow.connection.failures import PipelinesError, UnavailableError
from pipelines.kubeflow.submissions import CLAIM_SECONDS, Submission, read_claim
from pipelines.kubeflow.version import content_of
from tests.cluster.mounted_pod import (
    REMOTE,
    TRACKING,
    MountedCluster,
    api,
    dvc_project,
    json_web_token,
    mounted,
    no_token,
    s3_endpoint,
    s3_store,
)
from tests.local.workshop import committed_tree, mistere
from tests.stand_ins.kfp_api import KfpApi, Trouble, kubernetes_is_away

__all__ = ["api", "mounted", "no_token", "s3_endpoint", "s3_store"]


def only_run(api: KfpApi) -> Any:
    (run,) = api.runs.values()
    return run


def record(store: S3Store) -> tuple[str, dict[str, Any]]:
    (key,) = store.keys("submissions")
    return key, json.loads(store.read(key)[0])


def test_the_first_submit_uploads_a_version_and_starts_a_run(
    mounted: MountedCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        mounted.submit("gate.min_weighted_f1=0.5", "cluster.namespace=speech", "cluster.service_account=trainer") == 0
    )
    assert len(mounted.api.requests) <= 10, mounted.api.requests
    run, version = only_run(mounted.api), next(iter(mounted.api.versions.values()))
    assert re.fullmatch(r"[a-z0-9.-]+-tiny", version.display_name) and len(content_of(version)) == 64
    assert run.pipeline_version_reference["pipeline_version_id"] == version.pipeline_version_id
    assert run.service_account == "trainer"
    experiment = mounted.api.experiments[run.experiment_id]
    assert (experiment.namespace, experiment.display_name) == ("speech", "mistere")
    parameters = run.runtime_config["parameters"]
    context = parameters["run"]
    assert len(parameters) == 10 and parameters["gate"]["min_weighted_f1"] == 0.5
    assert (context["store"], context["tracking_uri"]) == (mounted.store.uri, TRACKING)
    assert context["data_remote"] == REMOTE and context["data_digest"].endswith(".dir")
    assert run.display_name == context["run_id"] and context["profile"] == "tiny" and not context["schedule"]
    info = json.loads(mounted.store.read(f"runs/{context['run_id']}/run.json")[0])
    assert info["data"]["dvc_digest"] == context["data_digest"] and info["config"]["gate"]["min_weighted_f1"] == 0.5
    _, kept = record(mounted.store)
    assert (kept["run_id"], kept["kfp_run_id"]) == (context["run_id"], run.run_id)
    printed = capsys.readouterr().out
    assert context["run_id"] in printed and f"page     http://localhost:8080/#/runs/details/{run.run_id}\n" in printed
    assert "port-forward service/ml-pipeline-ui 8080:80" in printed


def test_submit_refuses_a_local_deployment_before_any_request(mounted: MountedCluster) -> None:
    with pytest.raises(UsageError, match=r"set deployment\.mode=standard or deployment\.mode=knative"):
        mounted.submit("deployment.mode=local")
    assert not mounted.api.requests and not list(mounted.store.keys("submissions"))


@pytest.mark.long
def test_an_identical_submit_is_reused_and_a_different_one_is_not(
    mounted: MountedCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    mounted.submit()
    first = only_run(mounted.api)
    before = len(mounted.api.requests)
    assert mounted.submit() == 0 and mounted.submit(if_changed=True, wait=True) == 0
    assert only_run(mounted.api) is first
    assert [path.rsplit("/", 1)[-1] for _, path in mounted.api.requests[before:]] == [first.run_id, "", first.run_id]
    assert capsys.readouterr().out.count("nothing changed") == 2
    mounted.submit("gate.min_weighted_f1=0.6", if_changed=True)
    assert len(mounted.api.runs) == 2
    mounted.submit(force=True)
    assert len(mounted.api.runs) == 3 and len(list(mounted.store.keys("submissions"))) == 2
    assert len(mounted.api.pipelines) == len(mounted.api.experiments) == 1


def test_an_identical_submit_runs_again_after_a_failed_or_stopped_run(mounted: MountedCluster) -> None:
    mounted.submit()
    for number, state in enumerate(["FAILED", "CANCELING"], 1):
        *_, last = mounted.api.runs.values()
        last.state = state
        mounted.submit(if_changed=True)
        mounted.submit()
        assert len(mounted.api.runs) == number + 1 and len(mounted.api.versions) == 1


@pytest.mark.long
def test_a_deleted_run_counts_by_its_recorded_outcome(mounted: MountedCluster) -> None:
    mounted.submit()
    mounted.api.runs.clear()
    mounted.submit()
    run_id = only_run(mounted.api).display_name
    for task, values in (("validate_data", {"verdict": "pass"}), ("gate_model", {"verdict": "hold"})):
        kept = {"task": task, "stage": task, "status": "done", "started": 1.0, "values": values}
        mounted.store.write(f"runs/{run_id}/stages/{task}.json", json.dumps(kept).encode())
    mounted.api.runs.clear()
    mounted.submit()
    assert mounted.submit(wait=True) == 3
    assert not mounted.api.runs


def test_an_interrupted_submit_is_found_awaited_or_taken_over(mounted: MountedCluster) -> None:
    mounted.submit()
    key, complete_record = record(mounted.store)
    cut_off = {**complete_record, "kfp_run_id": ""}
    mounted.store.write(key, json.dumps(cut_off).encode())
    mounted.submit()
    assert len(mounted.api.runs) == 1
    mounted.api.runs.clear()
    with pytest.raises(MistereError, match="is already being submitted"):
        mounted.submit()
    cut_off["submitted_at"] = time.time() + 5  # by the clock of another host
    mounted.store.write(key, json.dumps(cut_off).encode())
    with pytest.raises(MistereError, match="is already being submitted, since 0 s"):
        mounted.submit()
    cut_off["submitted_at"] = time.time() - CLAIM_SECONDS - 1
    mounted.store.write(key, json.dumps(cut_off).encode())
    mounted.submit()
    assert only_run(mounted.api).run_id == record(mounted.store)[1]["kfp_run_id"]
    cut_off["submitted_at"] = time.time() + CLAIM_SECONDS + 60  # by a clock that has been set back since
    mounted.store.write(key, json.dumps(cut_off).encode())
    mounted.api.runs.clear()
    mounted.submit()
    assert len(mounted.api.runs) == 1
    mounted.store.write(key, b"{half")
    mounted.submit()
    assert len(mounted.api.runs) == 2


def test_a_lost_response_starts_no_second_run_and_an_existing_name_is_reused(mounted: MountedCluster) -> None:
    mounted.api.troubles = [
        Trouble("POST", "/pipelines$", status=503, done=True),
        Trouble("POST", "/upload_version$", status=500, done=True),
        Trouble("POST", "/experiments$", status=504, done=True),
        Trouble("POST", "/runs$", status=502, done=True),
    ]
    mounted.submit()
    assert not any(trouble.times for trouble in mounted.api.troubles)
    for objects in (mounted.api.pipelines, mounted.api.versions, mounted.api.experiments, mounted.api.runs):
        assert len(objects) == 1
    assert record(mounted.store)[1]["kfp_run_id"] == only_run(mounted.api).run_id


@pytest.mark.long
def test_a_version_of_the_same_name_with_other_content_is_kept(mounted: MountedCluster) -> None:
    mounted.submit()
    mounted.submit("cluster.steps.train_moe.memory=8Gi")
    first, second = mounted.api.versions.values()
    assert second.display_name == f"{first.display_name}-{content_of(second)[:8]}"
    mounted.submit("cluster.steps.train_moe.memory=8Gi", force=True)
    assert len(mounted.api.versions) == 2 and len(mounted.api.runs) == 3


def test_a_rejected_submit_leaves_no_record(mounted: MountedCluster) -> None:
    mounted.api.forbidden = {"mistere"}
    with pytest.raises(
        PipelinesError, match=r"does not allow .* in namespace 'mistere' \(403\): set cluster.namespace"
    ):
        mounted.submit()
    assert not list(mounted.store.keys("submissions"))
    mounted.api.forbidden = set()
    mounted.api.troubles = [Trouble("POST", "/runs$", times=2)]
    with pytest.raises(UnavailableError, match="failed to process run"):
        mounted.submit()
    assert record(mounted.store)[1]["kfp_run_id"] == ""
    mounted.submit(force=True)
    kept = record(mounted.store)[1]
    mounted.api.runs[kept["kfp_run_id"]].state = "FAILED"
    mounted.api.troubles = [Trouble("POST", "/runs$", status=400)]
    with pytest.raises(PipelinesError, match=r"refused run '.*' \(400: trouble on demand\)"):
        mounted.submit()
    assert record(mounted.store)[1] == kept


def test_a_run_that_no_token_could_start_leaves_no_record(
    mounted: MountedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the Kubernetes API is away, a valid token gets a 401, so nothing was started, and the next submit may start at once."""
    mounted.api.token = json_web_token(exp=4e9, aud=["pipelines.kubeflow.org"])
    monkeypatch.setenv("KFP_TOKEN", mounted.api.token)
    monkeypatch.setattr(submit_module, "Pipelines", partial(Pipelines, outage=0.0))
    mounted.api.troubles = [kubernetes_is_away(1, method="POST", path="/runs$")]
    with pytest.raises(UnavailableError, match="the Kubernetes API, which reviews it, may be away"):
        mounted.submit()
    assert not list(mounted.store.keys("submissions"))
    assert mounted.submit() == 0 and len(mounted.api.runs) == 1


def test_submit_to_a_single_user_server(mounted: MountedCluster) -> None:
    mounted.api.multi_user = False
    mounted.submit()
    assert {experiment.namespace for experiment in mounted.api.experiments.values()} == {""}


def test_two_concurrent_submits_start_one_run(mounted: MountedCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    other_submission = Submission(
        run_id="other", version="v", commit="", profile="tiny", data_digest="d", namespace="mistere", submitted_at=1.0
    )

    start = Pipelines.start

    def start_and_lose_the_record(pipelines: Pipelines, body: Any) -> Any:
        run = start(pipelines, body)
        (key,) = mounted.store.keys("submissions")
        mounted.store.write(key, other_submission.model_dump_json().encode())
        return run

    monkeypatch.setattr(Pipelines, "start", start_and_lose_the_record)
    mounted.submit()
    claim = read_claim(mounted.store, "0" * 64)
    assert claim.submission is None
    assert only_run(mounted.api).display_name != "other" and record(mounted.store)[1] == other_submission.model_dump()


@pytest.mark.parametrize(
    ("options", "message_part"),
    [
        ({"host": ""}, "no address of Kubeflow Pipelines is named: set --host, KFP_ENDPOINT or cluster.host"),
        ({"host": "kfp.example.org"}, "with its scheme"),
        ({"host": "https://ann:hunter2@kfp"}, "put a token into KFP_TOKEN instead"),
        ({"store": ""}, "no store is named"),
        ({"store": "/tmp/store"}, "is a folder of this machine, which pods cannot reach"),
        ({"tracking": ""}, "no tracking server is named"),
        (
            {"tracking": "sqlite:///mlflow.db"},
            "cannot be reached by pods: name an MLflow server with http:// or https://",
        ),
        ({"tracking": "https://ann:hunter2@mlflow"}, "put them into the secret 'mistere-tracking'"),
    ],
)
def test_a_store_unreachable_from_pods_is_rejected(options: dict[str, str], message_part: str) -> None:
    all_options = {"host": "http://kfp", "store": "s3://bucket/x", "tracking": "http://mlflow", **options}
    with pytest.raises(UsageError) as error:
        submit("tiny", None, [], **all_options)
    assert message_part in str(error.value) and "\n" not in str(error.value) and "hunter2" not in str(error.value)


def test_data_that_pods_cannot_pull_is_rejected(mounted: MountedCluster, tmp_path: Path) -> None:
    digest = "0" * 32 + ".dir"
    mounted_options = {**mounted.options, "allow_dirty": True}
    local = dvc_project(tmp_path / "local", str(tmp_path / "remote"), digest)
    with pytest.raises(UsageError, match="make an s3:// remote the default one"):
        submit("tiny", str(local), [], **mounted_options)
    absent = dvc_project(tmp_path / "absent", REMOTE, digest)
    with pytest.raises(MistereError, match=r"is missing from the DVC remote .* push it again with `dvc push`"):
        submit("tiny", str(absent), [], **mounted_options)
    assert not mounted.api.requests


def check_tree(tree: Path, *, allow_dirty: bool) -> str:
    """Check whether a tree may run on a cluster."""
    code = f"from pipelines.kubeflow.version import releasable_tree; print(releasable_tree(allow_dirty={allow_dirty}))"
    result = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True, check=False)
    return result.stdout + result.stderr


@pytest.mark.long
def test_a_dirty_tree_or_one_with_outdated_images_is_rejected(tmp_path: Path) -> None:
    tree = committed_tree(tmp_path / "tree")
    assert "dirty=False" in check_tree(tree, allow_dirty=False)
    (tree / "README.md").write_text("Changed.\n")
    assert "dirty=False" in check_tree(tree, allow_dirty=False), "documentation decides nothing"
    with (tree / ".dvc" / "config").open("a") as file:
        file.write("# changed\n")
    refused = check_tree(tree, allow_dirty=False)
    assert "uncommitted changes in .dvc/config, so" in refused
    assert "commit them, or submit a trial run with --allow-dirty" in refused
    assert "-dirty" in check_tree(tree, allow_dirty=True)
    with (tree / "mistere" / "common" / "paths.py").open("a") as file:
        file.write("# a comment changes no image\n")
    assert "-dirty" in check_tree(tree, allow_dirty=True)
    with (tree / "mistere" / "common" / "paths.py").open("a") as file:
        file.write("CHANGED = 1\n")
    assert "names images that are not built from this tree" in check_tree(tree, allow_dirty=True)


@pytest.mark.long
def test_the_command_from_a_clean_tree(mounted: MountedCluster, tmp_path: Path) -> None:
    tree = committed_tree(tmp_path / "tree")
    options = ["submit", "--profile", "tiny", "--data", str(mounted.data)]
    options += [part for name, value in mounted.options.items() for part in (f"--{name}", value)]
    result = mistere(*options, root=tree)
    assert result.returncode == 0, result.stderr
    context = only_run(mounted.api).runtime_config["parameters"]["run"]
    assert len(context["commit"]) == 40 and not context["dirty"]
    assert re.search(rf"g?{context['commit'][:7]}-tiny$", next(iter(mounted.api.versions.values())).display_name)
    assert "nothing changed" in mistere(*options, "--if-changed", root=tree).stdout
    mounted.api.token = "another"
    result = mistere(*options, "--force", root=tree)
    assert result.returncode == 1 and "KFP_TOKEN" in result.stderr and result.stderr.count("\n") == 1


def test_a_look_at_the_traffic_needs_no_data_and_repeats_none(
    mounted: MountedCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert mounted.submit(pipeline="monitoring", data=None) == 0
    assert "nothing changed" not in (printed := capsys.readouterr().out) and "data " not in printed
    first, second = mounted.api.runs.values()
    assert first.display_name != second.display_name
    assert first.runtime_config["parameters"]["run"]["data_digest"] == ""
    with pytest.raises(UsageError, match="the pipeline monitoring reads no dataset: leave out --data"):
        mounted.submit(pipeline="monitoring")


def test_a_distillation_needs_no_data_and_is_repeated_for_another_champion(
    mounted: MountedCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=r"gate\.champion_margin: a student is compared with its teacher"):
        mounted.submit("gate.champion_margin=0.1", pipeline="distillation", data=None)
    assert mounted.submit("distillation.layers=2", pipeline="distillation", data=None) == 0
    run = only_run(mounted.api)
    parameters = run.runtime_config["parameters"]
    assert set(parameters) == {"run", "distillation", "validation", "evaluation", "gate", "registry"}
    assert parameters["distillation"]["layers"] == 2 and not parameters["run"]["data_digest"]
    assert mounted.submit("distillation.layers=2", pipeline="distillation", data=None) == 0
    assert only_run(mounted.api) is run and "nothing changed" in capsys.readouterr().out
    champion = Champion(
        bundle_digest="a" * 64, evaluation_digest="e" * 64, model_name="mistere", model_version="1", run_id="r", moved_at=0.0
    )  # fmt: skip
    move_champion(mounted.store, read_champion(mounted.store), champion)
    assert mounted.submit("distillation.layers=2", pipeline="distillation", data=None) == 0
    assert len(mounted.api.runs) == 2
