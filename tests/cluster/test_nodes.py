"""Training on several nodes: the TrainJob is followed to its end and always deleted."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import mistere.kubernetes.api as kubernetes_api
from components.finetune_encoder.nodes import launch as nodes
from components.finetune_encoder.nodes import pods as node_pods
from components.finetune_encoder.nodes.launch import check_nodes, train_on_nodes
from components.finetune_encoder.nodes.node import USAGES
from components.finetune_encoder.nodes.train_job import train_job
from components.finetune_encoder.training.job import PreemptedError
from components.report_run.cleanup import clean_up
from mistere.artifacts.object_store import LocalStore
from mistere.artifacts.s3.store import S3Store
from mistere.artifacts.usage import Usage
from mistere.common.errors import MistereError, UsageError
from mistere.common.paths import PROJECT_ROOT
from mistere.config.encoder import TextConfig
from mistere.engine.usage_meter import UsageMeter
from mistere.kubernetes.api import connect
from mistere.kubernetes.images import image
from tests.cluster.trainer import NAME, STEP_POD, TrainerCluster, step_inside, until, use_token
from tests.serving.test_inference_service import LOADER
from tests.stand_ins.kubernetes_server import Trouble

CURVE = [{"epoch": 1, "loss": 0.5, "dev_loss": 0.4, "dev_weighted_f1": 0.7}]


@pytest.fixture(autouse=True)
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "_POLL_SECONDS", 0.05)
    monkeypatch.setattr(kubernetes_api, "_RETRY_SECONDS", (0.01, 0.01))


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., TrainerCluster]]:
    clusters: list[TrainerCluster] = []

    def inside(**options: Any) -> TrainerCluster:
        clusters.append(step_inside(tmp_path, LocalStore(tmp_path / "store"), monkeypatch, **options))
        return clusters[-1]

    yield inside
    for cluster in clusters:
        cluster.close()


@pytest.fixture
def cluster(make: Callable[..., TrainerCluster]) -> TrainerCluster:
    return make()


def finish(cluster: TrainerCluster, prefix: str, node: int) -> int:
    """Write the results as the node of the first process does."""
    if node == 0:
        cluster.store.write(f"{prefix}/tuned.safetensors", b"weights")
        cluster.store.write(f"{prefix}/curve.json", json.dumps(CURVE).encode())
    return 0


def fail(cluster: TrainerCluster, prefix: str, node: int, **failure: Any) -> int:
    cluster.store.write(f"{prefix}/failures/{node}.json", json.dumps([failure]).encode())
    return 1


def nothing_is_left(cluster: TrainerCluster) -> bool:
    until(lambda: not cluster.api.all("trainjobs") and len(cluster.api.all("pods")) == 1)
    return not list(cluster.store.keys("nodes"))


def test_the_train_job_is_created_followed_and_deleted(
    cluster: TrainerCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    observed_pods: list[dict[str, Any]] = []

    def log_reads(node: int) -> int:
        return sum(f"/{NAME}-node-0-{node}-" in path and "/log?" in path for _, path in cluster.server.calls)

    def work(node: int, say: Callable[[str], None], _stopped: Any, prefix: str) -> int:
        observed_pods.append(cluster.api.find("trainjobs", NAME) or {})
        job = json.loads(cluster.store.read(f"{prefix}/job.json")[0])
        assert job["base_digest"] == "base" and job["training"]["micro_batch"] == 8
        assert cluster.store.read(f"{prefix}/dev/features.bin")[0] == b"dev"
        for count in range(3):
            say(f"line {count} of {node}")
            reads = log_reads(node)
            until(lambda reads=reads: log_reads(node) > reads)  # type: ignore[misc]  # each line is in a read of its own
        return finish(cluster, prefix, node)

    cluster.run_containers(work)
    job = cluster.job()
    assert train_on_nodes(job, "base", cluster.step()) == CURVE
    assert (job.output / "tuned.safetensors").read_bytes() == b"weights"
    out = capsys.readouterr().out.splitlines()
    for node in range(2):
        assert [line for line in out if f"of {node}" in line] == [f"node {node}: line {i} of {node}" for i in range(3)]
    assert observed_pods[0]["spec"]["trainer"]["image"] == image("train")
    assert cluster.calls("POST") == 1 and nothing_is_left(cluster)
    assert cluster.progress.notes == [f"TrainJob {NAME} in namespace mistere: 2 nodes with 1 process each."]


def test_one_node_trains_in_a_train_job_where_the_configuration_says_so(cluster: TrainerCluster) -> None:
    cluster.run_containers(lambda node, _say, _stopped, prefix: finish(cluster, prefix, node))
    job = cluster.job(num_nodes=1, nodes={"trainjob": True})
    assert job.config.uses_trainjob and not cluster.job(num_nodes=1).config.uses_trainjob
    assert train_on_nodes(job, "base", cluster.step()) == CURVE
    assert cluster.calls("POST") == 1 and nothing_is_left(cluster)
    assert cluster.progress.notes == [f"TrainJob {NAME} in namespace mistere: 1 node with 1 process."]


def test_what_the_nodes_used_counts_as_used_by_the_step(cluster: TrainerCluster) -> None:
    def work(node: int, _say: Any, _stopped: Any, prefix: str) -> int:
        used = Usage(cpu_seconds=1000.0 + node, gpu_seconds=500.0, read_bytes=7)
        cluster.store.write(f"{prefix}/{USAGES}/{node}.json", used.model_dump_json().encode())
        cluster.store.write(f"{prefix}/{USAGES}/killed.json", b"{")
        return finish(cluster, prefix, node)

    cluster.run_containers(work)
    meter = UsageMeter(energy=False)
    assert train_on_nodes(cluster.job(), "base", cluster.step()) == CURVE
    usage = meter.usage()
    assert 2001 < usage.cpu_seconds < 2101 and usage.gpu_seconds == 1000 and usage.read_bytes >= 14
    assert UsageMeter(energy=False).usage().gpu_seconds == 0, "a later task counts them again"
    assert nothing_is_left(cluster)


def test_a_batch_that_does_not_fit_is_halved_on_all_nodes(cluster: TrainerCluster) -> None:
    tried: list[int] = []

    def work(node: int, _say: Any, stopped: threading.Event, prefix: str) -> int:
        micro_batch = json.loads(cluster.store.read(f"{prefix}/job.json")[0])["training"]["micro_batch"]
        tried.append(micro_batch)
        if micro_batch == 8 and node == 1:
            return fail(cluster, prefix, node, memory=True)
        if micro_batch == 8:
            stopped.wait(300)
            return 1
        return finish(cluster, prefix, node)

    cluster.run_containers(work)
    assert train_on_nodes(cluster.job(), "base", cluster.step()) == CURVE
    assert set(tried) == {8, 2} and cluster.calls("POST") == 2 and nothing_is_left(cluster)
    assert (
        "4 utterances at once do not fit" in cluster.progress.notes[1] and "still sees 8" in cluster.progress.notes[1]
    )


def test_a_failed_node_fails_the_step(cluster: TrainerCluster) -> None:
    message = "text.precision=float16 needs a GPU: set bfloat16."

    def work(node: int, _say: Any, stopped: threading.Event, prefix: str) -> int:
        # Node 1 may be restarted before the step reads its failure: it reports the failure once and then runs like node 0.
        if node == 1 and not failed:
            failed.append(node)
            return fail(cluster, prefix, node, message=message, exit_code=2)
        stopped.wait(300)
        return 1

    failed: list[int] = []
    cluster.run_containers(work)
    with pytest.raises(UsageError, match=message):
        train_on_nodes(cluster.job(), "base", cluster.step())
    assert nothing_is_left(cluster) and 0 in cluster.stopped


def test_a_lost_node_is_restarted(cluster: TrainerCluster) -> None:
    falls = iter([1, 1])
    cluster.run_containers(lambda node, _say, _stopped, prefix: next(falls, 0) or finish(cluster, prefix, node))
    assert train_on_nodes(cluster.job(), "base", cluster.step()) == CURVE


def test_a_node_lost_after_the_others_finished_is_not_awaited(cluster: TrainerCluster) -> None:
    def finished_at(node: int) -> str:
        pods = [pod for pod in cluster.api.all("pods") if pod["metadata"]["name"].startswith(f"{NAME}-node-0-{node}-")]
        states = [pod["status"]["containerStatuses"][0]["state"] for pod in pods]
        return next((str(state.get("terminated", {}).get("finishedAt", "")) for state in states), "")

    def work(node: int, _say: Any, stopped: threading.Event, _prefix: str) -> int:
        if node == 1:
            return 0
        if falls:
            stopped.wait(300)
            return 1
        until(lambda: finished_at(1))
        until(
            lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()) > finished_at(1)
        )  # the stamps have whole seconds
        falls.append(node)
        return 1

    falls: list[int] = []
    cluster.run_containers(work)
    with pytest.raises(MistereError, match=r"node 0 .* failed after others had finished.*run again"):
        train_on_nodes(cluster.job(), "base", cluster.step())
    assert nothing_is_left(cluster)


def test_repeatedly_lost_nodes_fail_with_their_last_log_lines(cluster: TrainerCluster) -> None:
    def work(node: int, say: Callable[[str], None], stopped: threading.Event, _prefix: str) -> int:
        if node == 1:  # runs until it is stopped, so that node 0 always fails first
            stopped.wait(300)
            return 1
        say("Traceback (most recent call last):")
        say("RuntimeError: NCCL error")
        return 1

    cluster.run_containers(work, backoff=0)
    with pytest.raises(
        MistereError,
        match=r"failed .*job failures .first failed job: .*-node-0.; node 0 .*exit code 1.*NCCL error.*run again",
    ) as error:
        train_on_nodes(cluster.job(), "base", cluster.step())
    assert "\n" not in str(error.value) and nothing_is_left(cluster)


def test_last_log_lines_of_a_restarted_process_are_reported(
    cluster: TrainerCluster, capsys: pytest.CaptureFixture[str]
) -> None:
    def stands(restarts: int, before: str, now: str) -> None:
        state = {"name": "node", "restartCount": restarts, "state": {"running": {}}}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "n0", "namespace": "mistere", "labels": {"jobset.sigs.k8s.io/jobset-name": NAME}},
            "status": {"containerStatuses": [state]},
        }
        cluster.api.write("pods", pod)
        cluster.api.logs["n0", True], cluster.api.logs["n0", False] = before, now

    pods = node_pods.NodePods(connect(), "mistere", NAME, "text", cluster.progress)
    stands(0, "", "2026-01-01T00:00:01Z epoch 1\n")
    pods.look()
    stands(1, "2026-01-01T00:00:01Z epoch 1\n2026-01-01T00:00:02Z NCCL error\n", "2026-01-01T00:00:03Z epoch 1 again\n")
    pods.look()
    pods.look()
    assert capsys.readouterr().out.splitlines() == [
        f"n0: {text}" for text in ("epoch 1", "NCCL error", "epoch 1 again")
    ]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ({"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}, "pull the image"),
        ({"lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}, r"raise text\.nodes\.memory"),
    ],
)
def test_a_train_job_that_cannot_start_is_not_awaited(
    cluster: TrainerCluster, state: dict[str, Any], expected: str
) -> None:
    controller = cluster.run_containers(lambda _node, _say, stopped, _prefix: int(stopped.wait(300)))
    controller.states[1] = state
    with pytest.raises(MistereError, match=f"^node 1 of TrainJob {NAME} .*{expected}"):
        train_on_nodes(cluster.job(), "base", cluster.step())
    assert nothing_is_left(cluster)


def test_a_pending_reason_is_reported_once(cluster: TrainerCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_pods, "_SECONDS_WITHOUT_PODS", 0.1)
    job, step = cluster.job(), cluster.step()
    go = threading.Event()

    def pod_lists() -> int:
        return sum("/pods?" in path for _, path in cluster.server.calls)

    def later() -> None:
        until(lambda: len(cluster.progress.notes) == 2)
        controller = cluster.run_containers(
            lambda node, _say, _stopped, prefix: int(not go.wait(300)) or finish(cluster, prefix, node)
        )
        message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
        controller.conditions[1] = [{"type": "PodScheduled", "status": "False", "message": message}]
        until(lambda: len(cluster.progress.notes) == 3)
        looks = pod_lists()
        until(lambda: pod_lists() >= looks + 3)  # further looks at the same pods
        go.set()

    thread = threading.Thread(target=later)
    thread.start()
    assert train_on_nodes(job, "base", step) == CURVE
    thread.join()
    _, without, unscheduled = cluster.progress.notes
    assert "has no pods yet" in without and "node 1" in unscheduled and "Insufficient nvidia.com/gpu" in unscheduled


@pytest.mark.parametrize("may_read_events", [True, False])
def test_a_node_that_a_quota_refuses_is_noted_at_once(
    cluster: TrainerCluster, monkeypatch: pytest.MonkeyPatch, may_read_events: bool
) -> None:
    quota = "exceeded quota: mistere, requested: requests.cpu=2, used: requests.cpu=7, limited: requests.cpu=8"
    earlier = f'Error creating: pods "{NAME}-node-0-0-x" is forbidden: exceeded quota: gpus, requested: pods=1'
    cluster.api.event(f"{NAME}-node-0", "FailedCreate", earlier, stamp="2026-01-01T00:00:00Z")  # of an earlier attempt
    if not may_read_events:
        monkeypatch.setattr(node_pods, "_SECONDS_WITHOUT_PODS", 0.1)
        rights = [
            (verb, kind) for verb in ("get", "list", "watch", "create", "delete") for kind in ("pods", "trainjobs")
        ]
        use_token(cluster, "pipeline", frozenset([*rights, ("get", "pods/log")]))

    def later() -> None:
        until(lambda: len(cluster.progress.notes) >= 1)  # the TrainJob exists
        # Kubernetes, pkg/controller/controller_utils.go: the event of the Job whose pod is refused; there is no pod.
        for job, pod in ((NAME, "ab12c"), (NAME, "de34f"), ("another", "x")):
            cluster.api.event(
                f"{job}-node-0", "FailedCreate", f'Error creating: pods "{job}-node-0-0-{pod}" is forbidden: {quota}'
            )
        until(lambda: len(cluster.progress.notes) == 2)
        cluster.run_containers(lambda node, _say, _stopped, prefix: finish(cluster, prefix, node))

    thread = threading.Thread(target=later)
    thread.start()
    assert train_on_nodes(cluster.job(), "base", cluster.step()) == CURVE
    thread.join()
    _, refused = cluster.progress.notes
    if may_read_events:
        assert (
            refused == f"the cluster refuses pods of TrainJob {NAME}: {quota}: raise the quota, or change text.nodes."
        )
    else:
        assert "has no pods yet" in refused


def test_sigterm_deletes_the_train_job(cluster: TrainerCluster) -> None:
    def work(_node: int, _say: Any, stopped: threading.Event, _prefix: str) -> int:
        stopped.wait(300)
        return 1

    cluster.run_containers(work)

    def terminate() -> None:
        until(lambda: len(cluster.api.all("pods")) == 3)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=terminate)
    thread.start()
    with pytest.raises(PreemptedError, match=r"stopped by SIGTERM, TrainJob .* is deleted: run again"):
        train_on_nodes(cluster.job(), "base", cluster.step())
    thread.join()
    assert nothing_is_left(cluster) and sorted(cluster.stopped) == [0, 1]
    assert signal.getsignal(signal.SIGTERM) == before


def test_what_a_stopped_node_still_writes_is_deleted(cluster: TrainerCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that SIGTERM ends writes what it used, after the TrainJob was deleted."""

    def work(node: int, _say: Any, stopped: threading.Event, prefix: str) -> int:
        if node == 0:
            return fail(cluster, prefix, node, message="it fails", exit_code=1)
        stopped.wait(300)
        time.sleep(0.5)
        used = Usage(cpu_seconds=1000.0).model_dump_json().encode()
        cluster.store.write(f"{prefix}/{USAGES}/late.json", used)
        return 1

    def count(counting: Any) -> None:
        counted.append(list(counting._store.keys(f"{counting._prefix}/{USAGES}")))
        raise MistereError("the store does not answer")

    counted: list[list[str]] = []
    monkeypatch.setattr(nodes._Nodes, "_count_usage", count)
    cluster.run_containers(work)
    with pytest.raises(MistereError, match="it fails"):
        train_on_nodes(cluster.job(), "base", cluster.step())
    assert len(counted) == 1 and counted[0][0].endswith("/late.json") and nothing_is_left(cluster)


def test_the_exit_handler_deletes_a_leftover_train_job(cluster: TrainerCluster) -> None:
    left = train_job(NAME, TextConfig(num_nodes=2), "image", (), STEP_POD)
    unrelated = {**left, "metadata": {**left["metadata"], "name": "another-run-s", "ownerReferences": []}}
    for job in (left, unrelated):
        cluster.api.write("trainjobs", job)
    clean_up(cluster.step(), {"speech": {"num_nodes": 1}, "text": None})
    assert len(cluster.api.all("trainjobs")) == 2 and cluster.progress.notes == []
    clean_up(cluster.step(), {"text": {"num_nodes": 2}})
    staying = [job for job in cluster.api.all("trainjobs") if "deletionTimestamp" not in job["metadata"]]
    assert [job["metadata"]["name"] for job in staying] == ["another-run-s"]
    assert cluster.progress.notes == [f"TrainJob {NAME} was still running and was deleted."]


def test_a_restarted_step_adopts_the_running_train_job(cluster: TrainerCluster) -> None:
    go = threading.Event()
    cluster.run_containers(lambda node, _say, _stopped, prefix: int(not go.wait(300)) or finish(cluster, prefix, node))
    job, step = cluster.job(), cluster.step()
    child = os.fork()
    if not child:
        train_on_nodes(job, "base", step)
        os._exit(0)
    until(lambda: len(cluster.api.all("pods")) == 3)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    (before,) = cluster.api.all("trainjobs")

    def release() -> None:
        until(lambda: cluster.progress.notes)
        go.set()

    thread = threading.Thread(target=release)
    thread.start()
    assert train_on_nodes(job, "base", step) == CURVE
    thread.join()
    assert cluster.progress.notes == [f"TrainJob {NAME} is already running and is followed."]
    assert cluster.calls("POST") == 1 and before["metadata"]["name"] == NAME and nothing_is_left(cluster)


def test_a_train_job_under_deletion_is_awaited(cluster: TrainerCluster) -> None:
    going = train_job(NAME, TextConfig(num_nodes=2), "image", (), STEP_POD)
    going["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["foregroundDeletion"]}
    cluster.api.write("trainjobs", going)
    job, step = cluster.job(), cluster.step()

    created_before: list[int] = []

    def remove() -> None:
        until(lambda: sum(path.endswith(f"/trainjobs/{NAME}") for _, path in cluster.server.calls) >= 3)
        created_before.append(cluster.calls("POST"))
        cluster.api.remove("trainjobs", NAME)
        cluster.run_containers(lambda node, _say, _stopped, prefix: finish(cluster, prefix, node))

    thread = threading.Thread(target=remove)
    thread.start()
    assert train_on_nodes(job, "base", step) == CURVE
    thread.join()
    assert created_before == [0] and cluster.calls("POST") == 1


def test_an_externally_deleted_train_job_is_reported(cluster: TrainerCluster) -> None:
    cluster.run_containers(lambda _node, _say, stopped, _prefix: int(stopped.wait(300)))
    job, step = cluster.job(), cluster.step()

    def delete() -> None:
        until(lambda: len(cluster.api.all("pods")) == 3)
        cluster.api.remove("trainjobs", NAME)

    thread = threading.Thread(target=delete)
    thread.start()
    with pytest.raises(MistereError, match="deleted by another client"):
        train_on_nodes(job, "base", step)
    thread.join()


def test_a_temporary_api_outage_is_tolerated(cluster: TrainerCluster) -> None:
    def work(node: int, _say: Any, _stopped: Any, prefix: str) -> int:
        outage = Trouble("GET", 503, times=9)
        cluster.server.troubles.append(outage)
        until(lambda: not outage.times)
        return finish(cluster, prefix, node)

    cluster.run_containers(work)
    assert train_on_nodes(cluster.job(), "base", cluster.step()) == CURVE


# What a cluster refuses


def test_without_kubeflow_trainer_the_error_says_what_to_install(make: Callable[..., TrainerCluster]) -> None:
    cluster = make(kinds=("pods",))
    with pytest.raises(MistereError, match=r"no TrainJobs: install Kubeflow Trainer .*text\.num_nodes=1\.$"):
        train_on_nodes(cluster.job(), "base", cluster.step())


def role() -> frozenset[tuple[str, str]]:
    """The role that the manifests grant a step."""
    content = yaml.load((PROJECT_ROOT / "manifests/base/pipeline/role.yaml").read_text().split("---")[0], LOADER)
    return frozenset(
        (verb, resource)
        for rule in content["rules"]
        if "resourceNames" not in rule
        for resource in rule["resources"]
        for verb in rule["verbs"]
    )


def test_the_role_of_the_step_suffices(cluster: TrainerCluster) -> None:
    use_token(cluster, "mistere-pipeline", role())
    cluster.run_containers(lambda node, say, _stopped, prefix: say("hello") or finish(cluster, prefix, node))
    assert train_on_nodes(cluster.job(), "base", cluster.step()) == CURVE
    assert len(cluster.progress.notes) == 1 and nothing_is_left(cluster)


def test_a_missing_permission_is_named(cluster: TrainerCluster) -> None:
    use_token(cluster, "poor", role() - {("create", "trainjobs")})
    with pytest.raises(MistereError, match=r"cannot create resource .trainjobs.*bind that account to a Role"):
        train_on_nodes(cluster.job(), "base", cluster.step())


def test_unreadable_logs_do_not_stop_training(cluster: TrainerCluster) -> None:
    use_token(cluster, "deaf", role() - {("get", "pods/log")})

    def work(node: int, _say: Any, _stopped: Any, prefix: str) -> int:
        until(lambda: len(cluster.progress.notes) == 2)
        return finish(cluster, prefix, node)

    cluster.run_containers(work)
    assert train_on_nodes(cluster.job(), "base", cluster.step()) == CURVE
    assert len(cluster.progress.notes) == 2 and "logs are not passed on" in cluster.progress.notes[1]


def test_a_rejection_by_kubeflow_trainer_is_reported(cluster: TrainerCluster) -> None:
    cluster.api.admit = lambda _: 'spec.runtimeRef: ClusterTrainingRuntime "torch-distributed" not found'
    with pytest.raises(MistereError, match=r"refuses TrainJob .*torch-distributed.*correct text\.nodes"):
        train_on_nodes(cluster.job(), "base", cluster.step())


def test_invalid_settings_are_rejected_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, config = LocalStore(tmp_path), TextConfig(num_nodes=2)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(
        UsageError, match=r"text\.num_nodes=2 .* this run is not in one: set text\.num_nodes=1 .*submit"
    ):
        check_nodes(config, "text", store)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    with pytest.raises(UsageError, match="needs a store that the nodes can reach: name s3://"):
        check_nodes(config, "text", store)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    check_nodes(config, "text", S3Store("s3://bucket/store"))
    with pytest.raises(UsageError, match="8, which 3 processes cannot share evenly"):
        check_nodes(TextConfig(num_nodes=3), "text", S3Store("s3://bucket/store"))
