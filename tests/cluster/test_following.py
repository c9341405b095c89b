"""``mistere submit --wait``: progress of steps, exit codes, and interrupts."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kfp_server_api as models
import pytest

from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import MistereError, UsageError
from mistere.engine.live_progress import LiveProgress, progress_key
from mistere.runs.outcome import STOPPED, read_outcome
from pipelines.cli.output import run_follower
from pipelines.cli.output.run_follower import follow, task_of
from pipelines.kubeflow.connection.client import Pipelines
from pipelines.kubeflow.runs import pods as pods_module
from pipelines.kubeflow.runs.pods import RUN_LABEL, RunPods
from tests.cluster.conftest import Cluster
from tests.cluster.mounted_pod import (
    MountedCluster,
    api,
    json_web_token,
    mounted,
    no_token,
    s3_endpoint,
    s3_store,
)
from tests.stand_ins.kfp_api import Trouble, kubernetes_is_away
from tests.stand_ins.kubernetes_server import Trouble as KubernetesTrouble
from tests.unit.runs import recorded_runs

__all__ = ["api", "mounted", "no_token", "s3_endpoint", "s3_store"]


def run_id_of(run: Any) -> str:
    return str(run.runtime_config["parameters"]["run"]["run_id"])


def replay(mounted: MountedCluster, recorded: LocalStore, run_id: str) -> None:
    for key in [*recorded.keys("artifacts"), *recorded.keys("runs/run-0042/stages")]:
        mounted.store.write(key.replace("run-0042", run_id), recorded.read(key)[0])


def ends(mounted: MountedCluster, recorded: LocalStore, state: str) -> Callable[[Any], None]:
    """A cluster whose run replays a recorded outcome, step by step."""

    def run_it(run: Any) -> None:
        task = models.V2beta1PipelineTaskDetail(display_name="resolve-inputs", state="RUNNING", run_id=run.run_id)
        run.state, run.run_details = "RUNNING", models.V2beta1RunDetails(task_details=[task])
        replay(mounted, recorded, run_id_of(run))
        # server/api_converter.go: toApiPipelineTaskDetail sets no error, neither for a failed step nor for a failed driver.
        task.state = state
        run.state = state

    return run_it


@pytest.mark.parametrize(
    ("ending", "state", "code", "message_part"),
    [
        ("deployed", "SUCCEEDED", 0, "DEPLOYED"),
        ("held", "SUCCEEDED", 3, "that does not settle it"),
        ("data rejected", "SUCCEEDED", 4, "a label that dataset.yaml does not list"),
        ("failed", "FAILED", 1, "the disk is full"),
        (
            "killed",
            "FAILED",
            1,
            "No step recorded why: `kubectl --namespace mistere get pods --selector pipeline/runid=",
        ),
    ],
)
def test_waiting_returns_the_outcome_of_the_run(
    mounted: MountedCluster,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    ending: str,
    state: str,
    code: int,
    message_part: str,
) -> None:
    recorded = recorded_runs.ENDINGS[ending](tmp_path / "recorded").store
    mounted.api.serves_pages = True
    mounted.api.on_start = ends(mounted, recorded, state)
    assert mounted.submit(wait=True) == code
    printed = capsys.readouterr().out
    assert message_part in printed and "resolve_inputs               done" in printed
    assert f"log      {mounted.api.url}/#/runs/details/" in printed
    if ending == "deployed":
        assert re.search(r"serve it .*mistere.* serve s3://.*/artifacts/ModelBundle/[0-9a-f]{64}\n", printed)


def stopping(mounted: MountedCluster, recorded: LocalStore) -> Callable[[Any], None]:
    """A cluster whose run is stopped on the page after some steps."""

    def run_it(run: Any) -> None:
        run.state = "RUNNING"
        replay(mounted, recorded, run_id_of(run))
        Pipelines(mounted.api.url, "mistere").stop(run.run_id)

    return run_it


def test_a_stopped_run_is_reported_as_stopped(
    mounted: MountedCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mounted.api.on_start = stopping(mounted, recorded_runs.killed(tmp_path / "recorded").store)
    assert mounted.submit(wait=True, resubmit=3) == 1
    (run,) = mounted.api.runs.values()
    assert run.state == "FAILED"
    printed = capsys.readouterr().out
    assert "The run was stopped; the next run finds its finished steps." in printed
    assert "did not finish" not in printed and "kubectl" not in printed.rpartition("FAILED")[2]
    assert read_outcome(mounted.store, run.display_name).stopped


def test_a_stop_that_nobody_followed_is_read_from_the_workflow(
    mounted: MountedCluster, cluster: Cluster, tmp_path: Path
) -> None:
    mounted.submit()
    (run,) = mounted.api.runs.values()
    replay(mounted, recorded_runs.killed(tmp_path / "recorded").store, run.display_name)
    run.state = "FAILED"
    # resource/resource_manager.go, TerminateWorkflow: the patch {"spec": {"activeDeadlineSeconds": 0}}
    cluster.api.write("workflows", workflow(run.run_id, spec={"activeDeadlineSeconds": 0}))
    outcome = follow(Pipelines(mounted.api.url, "mistere"), run.run_id, mounted.store, run.display_name, 0.02)
    assert outcome.stopped and outcome.reasons == [STOPPED]


@pytest.mark.long
@pytest.mark.parametrize("lost", [True, False])
def test_a_failure_without_a_reason_is_submitted_again(
    mounted: MountedCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str], lost: bool
) -> None:
    killed = recorded_runs.killed(tmp_path / "killed").store
    failed = recorded_runs.failed(tmp_path / "failed").store
    held_store = recorded_runs.held(tmp_path / "held").store
    endings = iter([(killed, "FAILED"), (killed if lost else failed, "FAILED"), (held_store, "SUCCEEDED")])
    mounted.api.on_start = lambda run: ends(mounted, *next(endings))(run)
    assert mounted.submit(wait=True, resubmit=2) == (3 if lost else 1)
    assert len({run.display_name for run in mounted.api.runs.values()}) == len(mounted.api.runs) == (3 if lost else 2)
    printed = capsys.readouterr().out
    assert "failed and no step recorded why: it starts again (2 of 2 left)" in printed
    assert ("starts again (1 of 2 left)" in printed) == lost


@pytest.mark.long
def test_resubmitting_ends_with_its_number(mounted: MountedCluster) -> None:
    mounted.api.on_start = lambda run: setattr(run, "state", "FAILED")
    assert mounted.submit(wait=True, resubmit=1) == 1 and len(mounted.api.runs) == 2
    with pytest.raises(UsageError, match="needs --wait"):
        mounted.submit(resubmit=1)


def test_waiting_survives_temporary_errors(mounted: MountedCluster, tmp_path: Path) -> None:
    recorded = recorded_runs.held(tmp_path / "recorded").store
    mounted.api.on_start = ends(mounted, recorded, "SUCCEEDED")
    mounted.api.troubles = [Trouble("GET", "/runs/.+", 503, times=5)]
    pipelines = Pipelines(mounted.api.url, "mistere", backoff=0.001)
    mounted.submit()
    (run,) = mounted.api.runs.values()
    outcome = follow(pipelines, run.run_id, mounted.store, run.display_name, 0.02)
    assert outcome.exit_code == 3 and not mounted.api.troubles[0].times


@pytest.mark.parametrize(
    ("status", "message_part"),
    [(401, r"into KFP_TOKEN; run \S+ continues, and the same command follows"), (404, "deleted there")],
)
def test_a_missing_token_or_a_deleted_run_ends_waiting(mounted: MountedCluster, status: int, message_part: str) -> None:
    mounted.api.troubles = [Trouble("GET", "/runs/.+", status)]
    with pytest.raises(MistereError, match=message_part):
        mounted.submit(wait=True)
    assert len(mounted.api.runs) == 1


@pytest.mark.long
def test_waiting_survives_an_outage_of_the_kubernetes_api(
    mounted: MountedCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = json_web_token(exp=time.time() + 3600, aud=["pipelines.kubeflow.org"])
    monkeypatch.setenv("KFP_TOKEN", token)
    mounted.api.token = token
    mounted.api.on_start = ends(mounted, recorded_runs.held(tmp_path / "recorded").store, "SUCCEEDED")
    mounted.api.troubles = [kubernetes_is_away(3, path="/runs/.+")]
    assert mounted.submit(wait=True) == 3 and not mounted.api.troubles[0].times


def test_a_token_that_expires_ends_waiting(mounted: MountedCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_TOKEN", json_web_token(exp=time.time() - 1, aud=["pipelines.kubeflow.org"]))
    mounted.api.troubles = [kubernetes_is_away(3, path="/runs/.+")]
    with pytest.raises(MistereError, match=r"it expired on \d{4}-.* UTC; get a new one; run \S+ continues"):
        mounted.submit(wait=True)


@pytest.mark.long
def test_running_steps_are_reported_without_a_terminal(
    mounted: MountedCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    def show(run_id: str, task: str, started: float, message: str = "", done: float = 0, total: float = 0) -> None:
        live = LiveProgress(task=task, started=started, updated=started + 1, message=message, done=done, total=total)
        mounted.store.write(progress_key(run_id, task), live.model_dump_json().encode())

    def reads() -> int:
        return sum(path.startswith("/apis/v2beta1/runs/") for _, path in mounted.api.requests)

    def pause() -> None:
        before = reads()
        while reads() < before + 3:
            time.sleep(0.01)

    def run_it(run: Any) -> None:
        run_id, now = run.display_name, time.time()
        run.state = "RUNNING"
        show(run_id, "finetune_encoder-speech", now - 300, "epoch 3/8, dev weighted F1 0.580", 30, 80)
        show(run_id, "finetune_encoder-text", now - 10)
        pause()
        ended = {"task": "finetune_encoder-text", "stage": "finetune_encoder", "status": "failed", "started": now - 10}
        record = {**ended, "seconds": 5, "exit_code": 1, "message": "a node was lost."}
        mounted.store.write(f"runs/{run_id}/stages/finetune_encoder-text.json", json.dumps(record).encode())
        pause()
        show(run_id, "finetune_encoder-text", now)
        pause()
        run.state = "FAILED"

    mounted.api.on_start = run_it
    mounted.submit()
    (run,) = mounted.api.runs.values()
    pipelines = Pipelines(mounted.api.url, "mistere")
    follow(pipelines, run.run_id, mounted.store, run.display_name, 0.02, report_every=0.05)
    lines = capsys.readouterr().out.splitlines()
    assert lines.count("finetune_encoder-speech      started") == 1
    running = r"finetune_encoder-speech      running +30\d\.\d s: epoch 3/8, dev weighted F1 0\.580 \(38 %\)"
    assert any(re.fullmatch(running, line) for line in lines)
    text = [" ".join(line.split()[:2]) for line in lines if line.startswith("finetune_encoder-text ")]
    changes = [line.split()[1] for line in text if not line.endswith(" running")]
    assert changes == ["started", "FAILED", "started"], text


def pod(run_id: str, **status: Any) -> dict[str, Any]:
    metadata = {"name": f"run-{len(status)}", "namespace": "mistere", "labels": {RUN_LABEL: run_id}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": status}


def workflow(run_id: str, **fields: Any) -> dict[str, Any]:
    """Argo's object for a run, which Kubeflow Pipelines labels with the run's id."""
    metadata = {"name": "mistere-x", "namespace": "mistere", "labels": {RUN_LABEL: run_id}}
    return {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": metadata, **fields}


NO_GPU = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
}
NO_IMAGE = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image\n mistere/train"}}}


def test_pending_reasons_are_reported_while_waiting_and_at_the_end(
    mounted: MountedCluster, cluster: Cluster, capsys: pytest.CaptureFixture[str]
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

    mounted.api.on_start = run_it
    mounted.submit()
    (run,) = mounted.api.runs.values()
    outcome = follow(Pipelines(mounted.api.url, "mistere"), run.run_id, mounted.store, run.display_name, 0.02, 0.05)
    sentence = (
        "pod run-2 waits: Unschedulable (0/3 nodes are available: 3 Insufficient nvidia.com/gpu): request less in the cluster "
        "section, or add nodes that have it."
    )
    assert capsys.readouterr().out.count(sentence) == 1 and outcome.exit_code == 1
    assert outcome.reasons[-1] == sentence and not any("mistere/train" in reason for reason in outcome.reasons)


def test_waiting_works_without_permission_to_read_pods(
    mounted: MountedCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    mounted.api.on_start = lambda run: setattr(run, "state", "FAILED")
    assert mounted.submit(wait=True) == 1
    assert "`kubectl --namespace mistere get pods --selector pipeline/runid=" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("status", "message_part"),
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
def test_pending_reasons_of_pods(cluster: Cluster, status: dict[str, Any], message_part: str) -> None:
    cluster.api.write("pods", pod("abc", **status))
    pods = RunPods("mistere", "abc")
    problems = pods.new_problems()
    assert pods.new_problems() == [] and pods.problems == problems and len(problems) == bool(message_part)
    assert re.search(message_part, "".join(problems))


DRIVER = "mistere-x-system-container-driver-2703431234"
DRIVER_LOG = """time="2026-11-28T03:12:40.117Z" level=info msg="capturing logs" argo=true
I1128 03:12:40.231877      18 main.go:108] input ComponentSpec:{
  "executorLabel": "exec-embed-shard"
}
F1128 03:12:41.906512      18 main.go:77] KFP driver: driver.Container(pipelineName=mistere-retraining, runID=5f1d, \
taskDisplayName="embed-shard (speech)", taskName="embed-shard", component="comp-embed-shard", dagExecutionID=7, \
iterationIndex=0, componentSpec, KubernetesExecutorConfig) failed: failed to resolve inputs: input parameter "item" type \
mismatch: expect STRUCT, got string
time="2026-11-28T03:12:42.118Z" level=info msg="sub-process exited" argo=true error="<nil>"
"""
"""Of KFP's driver: v2/cmd/driver/main.go (``glog.Exitf``) and v2/driver/driver.go (``Options.info``), seen on 2.17.0."""


def failed_pod(run_id: str, name: str, **status: Any) -> dict[str, Any]:
    killed_pod = pod(run_id, phase="Failed", **status)
    killed_pod["metadata"]["name"] = name
    return killed_pod


def test_the_reason_of_a_failed_driver_is_read_from_its_log(
    mounted: MountedCluster, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_it(run: Any) -> None:
        for attempt in ("2703431234", "2703431235"):
            name = DRIVER.replace("2703431234", attempt)
            cluster.api.logs[name, False] = DRIVER_LOG
            cluster.api.write("pods", failed_pod(run.run_id, name))
        run.state = "FAILED"

    mounted.api.on_start = run_it
    assert mounted.submit(wait=True) == 1
    printed = capsys.readouterr().out
    reason = (
        'the driver of embed-shard (speech) failed: failed to resolve inputs: input parameter "item" type mismatch: expect STRUCT, '
        f"got string (pod {DRIVER})."
    )
    assert (
        printed.count(reason) == 1
        and printed.count("type mismatch") == 1
        and "kubectl" not in printed.rpartition("FAILED")[2]
    )


@pytest.mark.parametrize(
    ("log", "message_part"),
    [
        (
            "F1128 03:12:41.906512      18 main.go:77] Failed to execute driver: no such run\n",
            "failed: Failed to execute",
        ),
        ("I1128 03:12:41.906512      18 main.go:77] starting\n", "without a reason in its log: see `kubectl"),
        (None, f"`kubectl --namespace mistere logs {DRIVER} --container main` has the reason"),
    ],
)
def test_the_command_for_an_unreadable_driver_log_is_named(
    cluster: Cluster, log: str | None, message_part: str
) -> None:
    if log is None:
        cluster.api.tokens["admin"] = frozenset({("list", "pods")})
    else:
        cluster.api.logs[DRIVER, False] = log
    cluster.api.write("pods", failed_pod("abc", DRIVER))
    pods = RunPods("mistere", "abc")
    (sentence,) = pods.new_problems()
    assert message_part in sentence and "\n" not in sentence and pods.new_problems() == []


@pytest.mark.parametrize(
    ("status", "message_part"),
    [
        (
            {"containerStatuses": [{"state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}]},
            "was killed: OOMKilled: raise the step's memory in cluster.steps.",
        ),
        (
            {"reason": "Evicted", "message": "The node was low on resource: ephemeral-storage."},
            "was killed: Evicted (The node was low on resource: ephemeral-storage): request what",
        ),
        ({"containerStatuses": [{"state": {"terminated": {"reason": "Error", "exitCode": 1}}}]}, ""),
    ],
)
def test_killed_steps_are_reported(cluster: Cluster, status: dict[str, Any], message_part: str) -> None:
    cluster.api.write("pods", failed_pod("abc", "mistere-x-system-container-impl-1", **status))
    sentences = RunPods("mistere", "abc").new_problems()
    assert message_part in "".join(sentences) and len(sentences) == bool(message_part)


@pytest.mark.parametrize("path", ["/pods?", "/workflows?", "/log?"])
def test_an_outage_while_the_pods_are_read_is_survived(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(pods_module, "_RETRY_SECONDS", ())
    cluster.api.logs[DRIVER, False] = DRIVER_LOG
    cluster.api.write("pods", failed_pod("abc", DRIVER))
    cluster.server.troubles.append(KubernetesTrouble("GET", 503, path=path))
    pods = RunPods("mistere", "abc")
    assert pods.new_problems() == [] and pods.readable
    cluster.server.troubles.append(KubernetesTrouble("GET", 503, path="/log?"))
    assert pods.new_problems() == []
    assert "type mismatch" in "".join(pods.new_problems())


def test_the_last_look_names_the_command_for_a_log_that_is_not_available(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pods_module, "_RETRY_SECONDS", ())
    cluster.api.write("pods", failed_pod("abc", DRIVER))
    cluster.server.troubles.append(KubernetesTrouble("GET", 502, path="/log?"))
    (sentence,) = RunPods("mistere", "abc").new_problems(final=True)
    assert f"cannot be read here (502): `kubectl --namespace mistere logs {DRIVER}" in sentence


QUOTA = "exceeded quota: mistere, requested: requests.cpu=4, used: requests.cpu=7, limited: requests.cpu=8"


def test_a_pod_that_a_quota_refuses_is_reported(cluster: Cluster) -> None:
    # Argo, workflow/controller/operator.go: requeueIfTransientErr marks the node Pending with the API server's message.
    nodes = {
        "mistere-x-1": {
            "displayName": "train-moe",
            "phase": "Pending",
            "message": f'pods "mistere-x-system-container-impl-1" is forbidden: {QUOTA}',
        },
        "mistere-x-2": {"displayName": "pull-data", "phase": "Running", "message": "PodInitializing"},
    }
    cluster.api.write("workflows", workflow("abc", status={"nodes": nodes}))
    pods = RunPods("mistere", "abc")
    assert pods.new_problems() == [
        f"the cluster refuses the pod of train-moe: {QUOTA}: raise the namespace's quota, or request less in the cluster section."
    ]
    nodes["mistere-x-1"]["message"] = nodes["mistere-x-1"]["message"].replace(
        "used: requests.cpu=7", "used: requests.cpu=6"
    )
    cluster.api.write("workflows", workflow("abc", status={"nodes": nodes}))
    assert pods.new_problems() == [] and len(pods.problems) == 1 and not pods.stopped


def interrupt_the_wait(mounted: MountedCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run be endless, and press Ctrl-C when it is waited for a second time.

    A signal could hit the main thread inside of ``logging`` while it holds the lock of that module, and every thread of the later tests
    would wait for it.
    """
    waits = 0

    def sleep(seconds: float) -> None:
        nonlocal waits
        waits += 1
        if waits == 2:
            raise KeyboardInterrupt
        time.sleep(seconds)

    mounted.api.on_start = lambda run: setattr(run, "state", "RUNNING")
    monkeypatch.setattr(run_follower, "time", SimpleNamespace(**{**vars(time), "sleep": sleep}))


def test_an_interrupt_without_a_terminal_keeps_the_run(
    mounted: MountedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_the_wait(mounted, monkeypatch)
    with pytest.raises(MistereError, match=r"continues: the same command follows it again, and http.* stops it"):
        mounted.submit(wait=True)
    assert [run.state for run in mounted.api.runs.values()] == ["RUNNING"]


@pytest.mark.parametrize(
    ("answer", "state", "message_part"), [("y", "CANCELING", "is being stopped"), ("", "RUNNING", "continues")]
)
def test_an_interrupt_on_a_terminal_prompts(
    mounted: MountedCluster, monkeypatch: pytest.MonkeyPatch, answer: str, state: str, message_part: str
) -> None:
    terminal, terminal_end = os.openpty()
    os.write(terminal, f"{answer}\n".encode())
    with open(terminal_end, closefd=False) as typed, open(terminal_end, "w", closefd=False) as shown:
        monkeypatch.setattr("sys.stdin", typed)
        monkeypatch.setattr("sys.stdout", shown)
        interrupt_the_wait(mounted, monkeypatch)
        with pytest.raises(MistereError, match=message_part):
            mounted.submit(wait=True)
        monkeypatch.undo()
    printed = b""
    while b"stop run" not in printed:
        printed += os.read(terminal, 1 << 16)
    os.close(terminal)
    os.close(terminal_end)
    assert [run.state for run in mounted.api.runs.values()] == [state]


@pytest.mark.parametrize(
    ("shown", "task"),
    [
        ("pull-data", "pull_data"),
        ("finetune-encoder", "finetune_encoder-speech"),
        ("finetune-encoder-2", "finetune_encoder-text"),
        ("finetune-encoder (text)", "finetune_encoder-text"),
        ("embed-shard (text, student)", "embed_shard-text-student"),
        ("train-moe", "train_moe"),
        ("root-driver", ""),
        ("pull-data-driver", ""),
        ("", ""),
    ],
)
def test_step_names_match_the_server(shown: str, task: str) -> None:
    assert task_of(shown) == task
