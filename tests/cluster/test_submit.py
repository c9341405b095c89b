"""``mistere submit``: uploads, records in the store, reuse of earlier runs, and rejections."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mistere.artifacts.object_store import S3Store
from mistere.common.errors import DataError, MistereError, UsageError
from pipelines.cli.commands.submit import submit
from pipelines.kubeflow.client import Pipelines
from pipelines.kubeflow.failures import PipelinesError, UnavailableError
from pipelines.kubeflow.submissions import CLAIM_SECONDS, Submission, read_claim
from pipelines.kubeflow.version import content_of
from tests.cluster.mounted_pod import (
    REMOTE,
    TRACKING,
    MountedCluster,
    api,
    dvc_project,
    no_token,
    place,
    s3_endpoint,
    s3_store,
)
from tests.local.workshop import committed_tree, mistere
from tests.stand_ins.kfp_api import KfpApi, Trouble

__all__ = ["api", "no_token", "place", "s3_endpoint", "s3_store"]


def only_run(api: KfpApi) -> Any:
    (run,) = api.runs.values()
    return run


def record(store: S3Store) -> tuple[str, dict[str, Any]]:
    (key,) = store.keys("submissions")
    return key, json.loads(store.read(key)[0])


def test_the_first_submit_uploads_a_version_and_starts_a_run(
    place: MountedCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    assert place.submit("gate.min_weighted_f1=0.5", "cluster.namespace=speech", "cluster.service_account=trainer") == 0
    assert len(place.api.requests) <= 10, place.api.requests
    run, version = only_run(place.api), next(iter(place.api.versions.values()))
    assert re.fullmatch(r"[a-z0-9.-]+-tiny", version.display_name) and len(content_of(version)) == 64
    assert run.pipeline_version_reference["pipeline_version_id"] == version.pipeline_version_id
    assert run.service_account == "trainer"
    experiment = place.api.experiments[run.experiment_id]
    assert (experiment.namespace, experiment.display_name) == ("speech", "mistere")
    parameters = run.runtime_config["parameters"]
    context = parameters["run"]
    assert len(parameters) == 10 and parameters["gate"]["min_weighted_f1"] == 0.5
    assert (context["store"], context["tracking_uri"]) == (place.store.uri, TRACKING)
    assert context["data_remote"] == REMOTE and context["data_digest"].endswith(".dir")
    assert run.display_name == context["run_id"] and context["profile"] == "tiny" and not context["schedule"]
    info = json.loads(place.store.read(f"runs/{context['run_id']}/run.json")[0])
    assert info["data"]["dvc_digest"] == context["data_digest"] and info["config"]["gate"]["min_weighted_f1"] == 0.5
    _, kept = record(place.store)
    assert (kept["run_id"], kept["kfp_run_id"]) == (context["run_id"], run.run_id)
    printed = capsys.readouterr().out
    assert context["run_id"] in printed and f"page     http://localhost:8080/#/runs/details/{run.run_id}\n" in printed
    assert "port-forward service/ml-pipeline-ui 8080:80" in printed


def test_submit_refuses_a_local_deployment_before_any_request(place: MountedCluster) -> None:
    with pytest.raises(UsageError, match=r"set deployment\.mode=standard or deployment\.mode=knative"):
        place.submit("deployment.mode=local")
    assert not place.api.requests and not list(place.store.keys("submissions"))


def test_an_identical_submit_is_reused_and_a_different_one_is_not(
    place: MountedCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    place.submit()
    first = only_run(place.api)
    before = len(place.api.requests)
    assert place.submit() == 0 and place.submit(if_changed=True, wait=True) == 0
    assert only_run(place.api) is first
    assert [path.rsplit("/", 1)[-1] for _, path in place.api.requests[before:]] == [first.run_id, "", first.run_id]
    assert capsys.readouterr().out.count("nothing changed") == 2
    place.submit("gate.min_weighted_f1=0.6", if_changed=True)
    assert len(place.api.runs) == 2
    place.submit(force=True)
    assert len(place.api.runs) == 3 and len(list(place.store.keys("submissions"))) == 2
    assert len(place.api.pipelines) == len(place.api.experiments) == 1


def test_an_identical_submit_runs_again_after_a_failed_or_stopped_run(place: MountedCluster) -> None:
    place.submit()
    for number, state in enumerate(["FAILED", "CANCELING"], 1):
        *_, last = place.api.runs.values()
        last.state = state
        place.submit(if_changed=True)
        place.submit()
        assert len(place.api.runs) == number + 1 and len(place.api.versions) == 1


def test_a_deleted_run_counts_by_its_recorded_outcome(place: MountedCluster) -> None:
    place.submit()
    place.api.runs.clear()
    place.submit()
    run_id = only_run(place.api).display_name
    for task, values in (("validate_data", {"verdict": "pass"}), ("gate_model", {"verdict": "hold"})):
        kept = {"task": task, "stage": task, "status": "done", "started": 1.0, "values": values}
        place.store.write(f"runs/{run_id}/stages/{task}.json", json.dumps(kept).encode())
    place.api.runs.clear()
    place.submit()
    assert place.submit(wait=True) == 3
    assert not place.api.runs


def test_an_interrupted_submit_is_found_awaited_or_taken_over(place: MountedCluster) -> None:
    place.submit()
    key, whole = record(place.store)
    cut_off = {**whole, "kfp_run_id": ""}
    place.store.write(key, json.dumps(cut_off).encode())
    place.submit()
    assert len(place.api.runs) == 1
    place.api.runs.clear()
    with pytest.raises(MistereError, match="is already being submitted"):
        place.submit()
    cut_off["submitted_at"] = time.time() - CLAIM_SECONDS - 1
    place.store.write(key, json.dumps(cut_off).encode())
    place.submit()
    assert only_run(place.api).run_id == record(place.store)[1]["kfp_run_id"]
    place.store.write(key, b"{half")
    place.submit()
    assert len(place.api.runs) == 2


def test_a_lost_response_starts_no_second_run_and_an_existing_name_is_reused(place: MountedCluster) -> None:
    place.api.troubles = [
        Trouble("POST", "/pipelines$", status=503, done=True),
        Trouble("POST", "/upload_version$", status=500, done=True),
        Trouble("POST", "/experiments$", status=504, done=True),
        Trouble("POST", "/runs$", status=502, done=True),
    ]
    place.submit()
    assert not any(trouble.times for trouble in place.api.troubles)
    for made in (place.api.pipelines, place.api.versions, place.api.experiments, place.api.runs):
        assert len(made) == 1
    assert record(place.store)[1]["kfp_run_id"] == only_run(place.api).run_id


def test_a_version_of_the_same_name_with_other_content_is_kept(place: MountedCluster) -> None:
    place.submit()
    place.submit("cluster.steps.train_moe.memory=8Gi")
    first, second = place.api.versions.values()
    assert second.display_name == f"{first.display_name}-{content_of(second)[:8]}"
    place.submit("cluster.steps.train_moe.memory=8Gi", force=True)
    assert len(place.api.versions) == 2 and len(place.api.runs) == 3


def test_a_rejected_submit_leaves_no_record(place: MountedCluster) -> None:
    place.api.forbidden = {"mistere"}
    with pytest.raises(
        PipelinesError, match=r"does not allow .* in namespace 'mistere' \(403\): set cluster.namespace"
    ):
        place.submit()
    assert not list(place.store.keys("submissions"))
    place.api.forbidden = set()
    place.api.troubles = [Trouble("POST", "/runs$", times=2)]
    with pytest.raises(UnavailableError, match="failed to process run"):
        place.submit()
    assert record(place.store)[1]["kfp_run_id"] == ""
    place.submit(force=True)
    kept = record(place.store)[1]
    place.api.runs[kept["kfp_run_id"]].state = "FAILED"
    place.api.troubles = [Trouble("POST", "/runs$", status=400)]
    with pytest.raises(PipelinesError, match=r"refused run '.*' \(400: trouble on demand\)"):
        place.submit()
    assert record(place.store)[1] == kept


def test_submit_to_a_single_user_server(place: MountedCluster) -> None:
    place.api.multi_user = False
    place.submit()
    assert {experiment.namespace for experiment in place.api.experiments.values()} == {""}


def test_two_concurrent_submits_start_one_run(place: MountedCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Submission(
        run_id="other", version="v", commit="", profile="tiny", data_digest="d", namespace="mistere", submitted_at=1.0
    )

    start = Pipelines.start

    def start_and_lose_the_record(pipelines: Pipelines, body: Any) -> Any:
        run = start(pipelines, body)
        (key,) = place.store.keys("submissions")
        place.store.write(key, other.model_dump_json().encode())
        return run

    monkeypatch.setattr(Pipelines, "start", start_and_lose_the_record)
    place.submit()
    claim = read_claim(place.store, "0" * 64)
    assert claim.submission is None
    assert only_run(place.api).display_name != "other" and record(place.store)[1] == other.model_dump()


@pytest.mark.parametrize(
    ("options", "says"),
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
def test_a_store_unreachable_from_pods_is_rejected(options: dict[str, str], says: str) -> None:
    given = {"host": "http://kfp", "store": "s3://bucket/x", "tracking": "http://mlflow", **options}
    with pytest.raises(UsageError) as error:
        submit("tiny", None, [], **given)
    assert says in str(error.value) and "\n" not in str(error.value) and "hunter2" not in str(error.value)


def test_data_that_pods_cannot_pull_is_rejected(place: MountedCluster, tmp_path: Path) -> None:
    digest = "0" * 32 + ".dir"
    place_options = {**place.options, "allow_dirty": True}
    local = dvc_project(tmp_path / "local", str(tmp_path / "remote"), digest)
    with pytest.raises(UsageError, match="make an s3:// remote the default one"):
        submit("tiny", str(local), [], **place_options)
    absent = dvc_project(tmp_path / "absent", REMOTE, digest)
    with pytest.raises(DataError, match=r"is missing from the DVC remote .* push it again with `dvc push`"):
        submit("tiny", str(absent), [], **place_options)
    assert not place.api.requests


def asked(tree: Path, *, allow_dirty: bool) -> str:
    """Check whether a tree may run on a cluster."""
    code = f"from pipelines.kubeflow.version import releasable_tree; print(releasable_tree(allow_dirty={allow_dirty}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_a_dirty_tree_or_one_with_outdated_images_is_rejected(tmp_path: Path) -> None:
    tree = committed_tree(tmp_path / "tree")
    assert "dirty=False" in asked(tree, allow_dirty=False)
    (tree / "README.md").write_text("Changed.\n")
    assert "commit them, or submit a trial run with --allow-dirty" in asked(tree, allow_dirty=False)
    assert "-dirty" in asked(tree, allow_dirty=True)
    with (tree / "mistere" / "common" / "paths.py").open("a") as file:
        file.write("# a comment changes no image\n")
    assert "-dirty" in asked(tree, allow_dirty=True)
    with (tree / "mistere" / "common" / "paths.py").open("a") as file:
        file.write("CHANGED = 1\n")
    assert "names images that are not built from this tree" in asked(tree, allow_dirty=True)


@pytest.mark.long
def test_the_command_from_a_clean_tree(place: MountedCluster, tmp_path: Path) -> None:
    tree = committed_tree(tmp_path / "tree")
    options = ["submit", "--profile", "tiny", "--data", str(place.data)]
    options += [part for name, value in place.options.items() for part in (f"--{name}", value)]
    done = mistere(*options, root=tree)
    assert done.returncode == 0, done.stderr
    context = only_run(place.api).runtime_config["parameters"]["run"]
    assert len(context["commit"]) == 40 and not context["dirty"]
    assert re.search(rf"g?{context['commit'][:7]}-tiny$", next(iter(place.api.versions.values())).display_name)
    assert "nothing changed" in mistere(*options, "--if-changed", root=tree).stdout
    place.api.token = "another"
    done = mistere(*options, "--force", root=tree)
    assert done.returncode == 1 and "KFP_TOKEN" in done.stderr and done.stderr.count("\n") == 1
