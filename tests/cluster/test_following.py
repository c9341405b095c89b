"""``mistere submit --wait``: progress of steps, exit codes, and interrupts."""

from __future__ import annotations

import _thread
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kfp_server_api as models
import pytest

from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import MistereError
from pipelines.cli.output.run_follower import follow, task_of
from pipelines.kubeflow.client import Pipelines
from pipelines.kubeflow.pods import RUN_LABEL, RunPods
from tests.cluster.conftest import Cluster
from tests.cluster.mounted_pod import MountedCluster, api, no_token, place, s3_endpoint, s3_store
from tests.stand_ins.kfp_api import Trouble
from tests.unit.runs import recorded_runs

__all__ = ["api", "no_token", "place", "s3_endpoint", "s3_store"]


def ends(place: MountedCluster, recorded: LocalStore, state: str, error: str = "") -> Callable[[Any], None]:
    """A cluster whose run replays a recorded outcome, step by step."""

    def run_it(run: Any) -> None:
        run_id = run.runtime_config["parameters"]["run"]["run_id"]
        task = models.V2beta1PipelineTaskDetail(display_name="resolve-inputs", state="RUNNING", run_id=run.run_id)
        run.state, run.run_details = "RUNNING", models.V2beta1RunDetails(task_details=[task])
        for key in [*recorded.keys("artifacts"), *recorded.keys("runs/run-0042/stages")]:
            place.store.write(key.replace("run-0042", run_id), recorded.read(key)[0])
        if error:
            task.error, task.state = models.GoogleRpcStatus(code=13, message=error), "FAILED"
        run.state = state

    return run_it


@pytest.mark.parametrize(
    ("ending", "state", "code", "says"),
    [
        ("deployed", "SUCCEEDED", 0, "DEPLOYED"),
        ("held", "SUCCEEDED", 3, "that does not settle it"),
        ("data rejected", "SUCCEEDED", 4, "a label that dataset.yaml does not list"),
        ("failed", "FAILED", 1, "the disk is full"),
        ("killed", "FAILED", 1, "resolve-inputs: Back-off pulling image"),
        ("killed", "CANCELED", 1, "The run was stopped."),
    ],
)
def test_waiting_returns_the_outcome_of_the_run(
    place: MountedCluster,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    ending: str,
    state: str,
    code: int,
    says: str,
) -> None:
    recorded = recorded_runs.ENDINGS[ending](tmp_path / "recorded").store
    error = "Back-off pulling image\n mistere/pipeline" if state == "FAILED" and ending == "killed" else ""
    place.api.on_start = ends(place, recorded, state, error)
    assert place.submit(wait=True) == code
    printed = capsys.readouterr().out
    assert says in printed and "resolve_inputs               done" in printed
    assert f"log      {place.api.url}/#/runs/details/" in printed
    if ending == "deployed":
        assert re.search(r"serve it .*mistere.* serve /.*/artifacts/ModelBundle/[0-9a-f]{64}\n", printed)


def test_waiting_survives_temporary_errors(place: MountedCluster, tmp_path: Path) -> None:
    recorded = recorded_runs.held(tmp_path / "recorded").store
    place.api.on_start = ends(place, recorded, "SUCCEEDED")
    place.api.troubles = [Trouble("GET", "/runs/.+", 503, times=5)]
    pipelines = Pipelines(place.api.url, "mistere", backoff=0.001)
    place.submit()
    (run,) = place.api.runs.values()
    outcome = follow(pipelines, run.run_id, place.store, run.display_name, 0.02)
    assert outcome.exit_code == 3 and not place.api.troubles[0].times


@pytest.mark.parametrize(
    ("status", "says"),
    [(401, r"into KFP_TOKEN; run \S+ goes on, and the same command follows"), (404, "deleted there")],
)
def test_an_expired_token_or_a_deleted_run_ends_waiting(place: MountedCluster, status: int, says: str) -> None:
    place.api.troubles = [Trouble("GET", "/runs/.+", status)]
    with pytest.raises(MistereError, match=says):
        place.submit(wait=True)
    assert len(place.api.runs) == 1


def pod(run_id: str, **status: Any) -> dict[str, Any]:
    metadata = {"name": f"run-{len(status)}", "namespace": "mistere", "labels": {RUN_LABEL: run_id}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": status}


NO_GPU = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
}
NO_IMAGE = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image\n mistere/train"}}}


def test_pending_reasons_are_reported_while_waiting_and_at_the_end(
    place: MountedCluster, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_it(run: Any) -> None:
        run.state = "RUNNING"
        cluster.api.write("pods", pod(run.run_id, phase="Pending", conditions=[NO_GPU]))
        cluster.api.write("pods", pod("another", phase="Pending", conditions=[], containerStatuses=[NO_IMAGE]))
        deadline = time.monotonic() + 120
        while sum("/pods" in path for _, path in cluster.server.calls) < 4:  # the reasons have been read and reported
            assert time.monotonic() < deadline
            time.sleep(0.02)
        run.state = "FAILED"

    place.api.on_start = run_it
    place.submit()
    (run,) = place.api.runs.values()
    outcome = follow(Pipelines(place.api.url, "mistere"), run.run_id, place.store, run.display_name, 0.02, 0.05)
    sentence = (
        "pod run-2 waits: Unschedulable (0/3 nodes are available: 3 Insufficient nvidia.com/gpu): request less in the cluster "
        "section, or add nodes that have it."
    )
    assert capsys.readouterr().out.count(sentence) == 1 and outcome.exit_code == 1
    assert outcome.reasons[-1] == sentence and not any("mistere/train" in reason for reason in outcome.reasons)


def test_waiting_works_without_permission_to_read_pods(
    place: MountedCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    place.api.on_start = lambda run: setattr(run, "state", "FAILED")
    assert place.submit(wait=True) == 1
    assert "`kubectl describe pods` in the run's namespace" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (
            {"phase": "Pending", "containerStatuses": [NO_IMAGE]},
            r"ImagePullBackOff \(Back-off pulling image mistere/train\)",
        ),
        ({"phase": "Pending", "initContainerStatuses": [NO_IMAGE], "x": 1}, "check that the registry has the image"),
        ({"phase": "Running", "containerStatuses": [NO_IMAGE]}, ""),
        ({"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "PodInitializing"}}}]}, ""),
        ({}, ""),
    ],
)
def test_pending_reasons_of_pods(cluster: Cluster, status: dict[str, Any], says: str) -> None:
    cluster.api.write("pods", pod("abc", **status))
    pods = RunPods("mistere", "abc")
    told = pods.new_problems()
    assert pods.new_problems() == [] and pods.problems == told and len(told) == bool(says)
    assert re.search(says, "".join(told))


def interrupting(place: MountedCluster) -> Callable[[Any], None]:
    """A cluster with an endless run; the user who follows it presses Ctrl-C."""

    def run_it(run: Any) -> None:
        run.state = "RUNNING"
        looks = ("GET", f"/apis/v2beta1/runs/{run.run_id}")
        while place.api.requests.count(looks) < 2:
            time.sleep(0.02)
        _thread.interrupt_main()

    return run_it


def test_an_interrupt_without_a_terminal_keeps_the_run(place: MountedCluster) -> None:
    place.api.on_start = interrupting(place)
    with pytest.raises(MistereError, match=r"goes on: the same command follows it again, and http.* stops it"):
        place.submit(wait=True)
    assert [run.state for run in place.api.runs.values()] == ["RUNNING"]


@pytest.mark.parametrize(
    ("answer", "state", "says"), [("y", "CANCELING", "is being stopped"), ("", "RUNNING", "goes on")]
)
def test_an_interrupt_on_a_terminal_prompts(
    place: MountedCluster, monkeypatch: pytest.MonkeyPatch, answer: str, state: str, says: str
) -> None:
    ours, theirs = os.openpty()
    os.write(ours, f"{answer}\n".encode())
    with open(theirs, closefd=False) as typed, open(theirs, "w", closefd=False) as shown:
        monkeypatch.setattr("sys.stdin", typed)
        monkeypatch.setattr("sys.stdout", shown)
        place.api.on_start = interrupting(place)
        with pytest.raises(MistereError, match=says):
            place.submit(wait=True)
        monkeypatch.undo()
    seen = b""
    while b"stop run" not in seen:
        seen += os.read(ours, 1 << 16)
    os.close(ours)
    os.close(theirs)
    assert [run.state for run in place.api.runs.values()] == [state]


@pytest.mark.parametrize(
    ("shown", "task"),
    [
        ("pull-data", "pull_data"),
        ("finetune-encoder", "finetune_encoder-speech"),
        ("finetune-encoder-2", "finetune_encoder-text"),
        ("finetune-encoder (text)", "finetune_encoder-text"),
        ("train-moe", "train_moe"),
        ("root-driver", ""),
        ("pull-data-driver", ""),
        ("", ""),
    ],
)
def test_step_names_match_the_server(shown: str, task: str) -> None:
    assert task_of(shown) == task
