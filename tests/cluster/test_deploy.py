"""Roll-out to a cluster: tested as a candidate, tested in the service, and undone on a failure, with the reason."""

from __future__ import annotations

import threading
import time

import pytest

from mistere.common.errors import MistereError
from mistere.config.deployment import DeploymentConfig
from mistere.kubernetes.api import KubernetesApi, connect
from mistere.serving.kserve import smoke_test
from mistere.serving.kserve.live_service import port_forward, service_path
from mistere.serving.kserve.rollout import ClusterDeployment
from tests.cluster.conftest import Cluster
from tests.cluster.observer import is_gone, settled_pods, watch_ready, watch_shares
from tests.cluster.trainer import until
from tests.stand_ins import kserve_controller

STANDARD = DeploymentConfig(mode="standard", ready_timeout=60)
KNATIVE = DeploymentConfig(mode="knative", ready_timeout=60)
QUICK = STANDARD.model_copy(update={"ready_timeout": 0.5})


def nothing() -> None:
    """Replaces the renewal of a lease."""


@pytest.mark.parametrize("config", [STANDARD, KNATIVE], ids=["standard", "knative"])
def test_a_bundle_is_served_and_deploying_it_again_changes_nothing(cluster: Cluster, config: DeploymentConfig) -> None:
    bundle = cluster.bundle("a")
    to = cluster.to(bundle, config)
    assert not to.serves()
    rolled_out = to.roll_out(bundle, nothing)
    assert (
        "largest difference from the offline evaluation: 0.0e+00" in rolled_out.message
        and "2 utterances by REST" in rolled_out.message
    )
    assert rolled_out.address.startswith("http://mistere") and to.serves() == rolled_out.address
    live = cluster.api.find("inferenceservices", "mistere")
    assert live is not None
    managers = {(entry["manager"], entry["operation"]) for entry in live["metadata"]["managedFields"]}
    assert managers == {("mistere", "Apply"), ("kserve", "Update")}
    assert live["spec"]["predictor"]["containers"][0]["args"][0].endswith(bundle.manifest.digest)
    before = cluster.server.changes()
    assert before == ["PATCH mistere"]
    to.roll_out(bundle, nothing)
    service = cluster.api.find("inferenceservices", "mistere")
    assert service is not None and service["metadata"]["generation"] == live["metadata"]["generation"] == 1
    assert cluster.server.changes() == [*before, "PATCH mistere"]
    assert len(cluster.api.all("pods")) == 1


@pytest.mark.parametrize(
    ("creates_ingress", "domain", "expected"),
    [
        (True, "example.com", "http://mistere-predictor.mistere.svc.cluster.local"),
        (False, "example.com", "http://mistere-predictor.mistere.svc.cluster.local"),
        (True, "models.company.org", "http://mistere-mistere.models.company.org"),
    ],
)
def test_the_address_is_one_that_answers(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, creates_ingress: bool, domain: str, expected: str
) -> None:
    monkeypatch.setattr(kserve_controller, "DOMAIN", domain)
    cluster.controller.creates_ingress = creates_ingress
    bundle = cluster.bundle("a")
    rolled_out = cluster.to(bundle, STANDARD).roll_out(bundle, nothing)
    assert rolled_out.address == cluster.to(bundle, STANDARD).serves() == expected
    inside = expected.endswith(".local")
    forward = "kubectl port-forward --namespace mistere service/mistere-predictor 8080:80"
    assert port_forward(rolled_out.address) == (forward if inside else "")


def test_a_roll_out_waits_while_kserve_reports_progress(cluster: Cluster) -> None:
    cluster.controller.reports_progress, cluster.controller.creates_ingress = True, False
    first, second = cluster.bundle("a"), cluster.bundle("b")
    cluster.to(first, STANDARD).roll_out(first, nothing)
    cluster.behave(second, "nowhere", "mistere")
    observed: list[str] = []

    def renew_lease() -> None:
        live = cluster.api.find("inferenceservices", "mistere") or {"status": {"conditions": []}}
        observed.extend(
            condition["status"] for condition in live["status"]["conditions"] if condition["type"] == "Ready"
        )
        if observed[-1:] == ["Unknown"]:
            cluster.behave(second, "", "mistere")  # a node has room now

    cluster.to(second, STANDARD).roll_out(second, renew_lease)
    assert set(observed) == {"True", "Unknown"} and cluster.served() == second.manifest.digest


@pytest.mark.long
def test_a_refused_pod_of_an_earlier_attempt_is_no_refusal_now(cluster: Cluster) -> None:
    bundle = cluster.bundle("a")
    cluster.behave(bundle, "quota")
    with pytest.raises(MistereError, match="exceeded quota"):
        cluster.to(bundle, KNATIVE).roll_out(bundle, nothing)
    assert is_gone(cluster, "mistere") and cluster.api.all("events")
    cluster.behave(bundle, "")
    assert cluster.to(bundle, KNATIVE).roll_out(bundle, nothing).message


@pytest.mark.parametrize("config", [STANDARD, KNATIVE], ids=["standard", "knative"])
def test_a_second_bundle_is_tested_before_it_gets_traffic(cluster: Cluster, config: DeploymentConfig) -> None:
    first, second = cluster.bundle("a"), cluster.bundle("b")
    cluster.to(first, config).roll_out(first, nothing)
    cluster.server.calls.clear()
    cluster.to(second, config).roll_out(second, nothing)
    assert cluster.server.changes() == ["PATCH mistere-candidate", "DELETE mistere-candidate", "PATCH mistere"]
    assert cluster.served() == second.manifest.digest
    assert is_gone(cluster, "mistere-candidate")
    assert {pod["metadata"]["labels"]["mistere/bundle"] for pod in settled_pods(cluster, 1)} == {
        second.manifest.digest[:12]
    }


def test_a_second_bundle_waits_for_the_resources_of_its_candidate(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = cluster.bundle("a"), cluster.bundle("b")
    cluster.to(first, STANDARD).roll_out(first, nothing)
    end, observed = cluster.controller._end, list[str]()

    def pod_reads() -> int:
        return sum("/pods?" in path for _, path in cluster.server.calls)

    def slowly(name: str) -> None:
        if name.startswith("mistere-candidate"):
            reads = pod_reads()
            until(lambda: pod_reads() >= reads + 2)  # the deployment asks whether the pod is gone
            observed.append(cluster.server.changes()[-1])
        end(name)

    monkeypatch.setattr(cluster.controller, "_end", slowly)
    monkeypatch.setattr(smoke_test, "_WATCH_SECONDS", 0.2)
    cluster.to(second, STANDARD).roll_out(second, nothing)
    assert observed == ["DELETE mistere-candidate"], "nothing was applied while its pod still left"
    assert cluster.served() == second.manifest.digest


@pytest.mark.parametrize(
    ("how", "config", "expected"),
    [
        ("crash", STANDARD, "CrashLoopBackOff.*last events: BackOff.*does not match mixture.safetensors"),
        ("crash", KNATIVE, "CrashLoopBackOff.*last events: BackOff.*does not match mixture.safetensors"),
        (
            "memory",
            STANDARD,
            "OOMKilled, it exceeded its memory limit of 4Gi: raise deployment.memory_limit; last events",
        ),
        (
            "memory",
            KNATIVE,
            "OOMKilled, it exceeded its memory limit of 4Gi: raise deployment.memory_limit; last events",
        ),
        ("image", STANDARD, "ImagePullBackOff .Back-off pulling image"),
        ("nowhere", QUICK, "Unschedulable .0/3 nodes are available: 3 Insufficient nvidia.com/gpu"),
        ("quota", STANDARD, "is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1"),
        (
            "quota",
            KNATIVE,
            "Error creating: pods .* is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1",
        ),
    ],
)
def test_a_model_that_does_not_start_changes_nothing_and_the_reason_is_reported(
    cluster: Cluster, how: str, config: DeploymentConfig, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smoke_test, "_WATCH_SECONDS", 0.2)
    first, second = cluster.bundle("a"), cluster.bundle("b")
    cluster.to(first, config.model_copy(update={"ready_timeout": 60})).roll_out(first, nothing)
    before = cluster.api.find("inferenceservices", "mistere")
    cluster.behave(second, how)
    with pytest.raises(MistereError, match=f"so the champion stays.*{expected}"):
        cluster.to(second, config).roll_out(second, nothing)
    after = cluster.api.find("inferenceservices", "mistere")
    assert before is not None and after is not None and after["spec"] == before["spec"]
    assert is_gone(cluster, "mistere-candidate")


def test_a_model_with_unexpected_predictions_gets_no_traffic(cluster: Cluster) -> None:
    first, second = cluster.bundle("a"), cluster.bundle("b", [[0.5, 0.5], [0.5, 0.5]])
    cluster.to(first, STANDARD).roll_out(first, nothing)
    with pytest.raises(MistereError, match=r"differ from the offline evaluation's by 0.25, allowed are 0.0001"):
        cluster.to(second, STANDARD).roll_out(second, nothing)
    assert cluster.served() == first.manifest.digest and cluster.server.changes()[0] == "PATCH mistere"
    assert cluster.server.changes().count("PATCH mistere") == 1


@pytest.mark.parametrize("config", [STANDARD, KNATIVE], ids=["standard", "knative"])
def test_a_failure_in_the_service_only_is_rolled_back_whatever_ready_says(
    cluster: Cluster, config: DeploymentConfig
) -> None:
    first, second = cluster.bundle("a"), cluster.bundle("b")
    cluster.to(first, config).roll_out(first, nothing)
    cluster.api.edit("inferenceservices", "mistere", {"spec": {"predictor": {"priorityClassName": "high"}}})
    before = cluster.api.find("inferenceservices", "mistere")
    cluster.behave(second, "crash", "mistere")
    observed = watch_ready(cluster)
    with pytest.raises(MistereError, match="CrashLoopBackOff"):
        cluster.to(second, config).roll_out(second, nothing)
    after = cluster.api.find("inferenceservices", "mistere")
    assert before is not None and after is not None and after["spec"] == before["spec"]
    conditions = observed()
    if config.mode == "standard":
        assert conditions == {"True"}, "KServe 0.20 reports nothing while the pod of the first model serves"
    managers = {entry["manager"]: entry["fieldsV1"] for entry in after["metadata"]["managedFields"]}
    assert managers["kubectl-edit"] == {"f:spec": {"f:predictor": {"f:priorityClassName": {}}}}
    assert "f:priorityClassName" not in managers["mistere"]["f:spec"]["f:predictor"]
    labels = [pod["metadata"]["labels"]["mistere/bundle"] for pod in settled_pods(cluster, 1)]
    assert labels == [first.manifest.digest[:12]]


def test_a_first_deployment_that_fails_is_removed(cluster: Cluster) -> None:
    bundle = cluster.bundle("a")
    cluster.behave(bundle, "crash")
    with pytest.raises(MistereError, match="CrashLoopBackOff"):
        cluster.to(bundle, STANDARD).roll_out(bundle, nothing)
    assert is_gone(cluster, "mistere")


def test_a_service_under_deletion_is_awaited(cluster: Cluster) -> None:
    bundle = cluster.bundle("a")
    cluster.to(bundle, STANDARD).roll_out(bundle, nothing)
    cluster.controller.stop()
    connect().delete(service_path(STANDARD, "mistere"))
    left = cluster.api.find("inferenceservices", "mistere")
    assert left is not None and left["metadata"]["deletionTimestamp"] and not cluster.to(bundle, STANDARD).serves()
    with pytest.raises(MistereError, match="is being deleted and does not terminate"):
        cluster.to(bundle, QUICK).roll_out(bundle, nothing)
    calls = len(cluster.server.calls)

    def start() -> None:
        until(lambda: any("watch=1" in path for _, path in cluster.server.calls[calls:]))  # the deployment waits
        cluster.controller.start()

    threading.Thread(target=start, daemon=True).start()
    cluster.to(bundle, STANDARD).roll_out(bundle, nothing)
    after = cluster.api.find("inferenceservices", "mistere")
    assert after is not None and after["metadata"]["uid"] != left["metadata"]["uid"]


def test_knative_sends_a_share_of_the_traffic_before_all_of_it(cluster: Cluster) -> None:
    config = KNATIVE.model_copy(update={"canary_percent": 20, "canary_seconds": 0.3})
    first, second = cluster.bundle("a"), cluster.bundle("b")
    cluster.to(first, config).roll_out(first, nothing)
    assert "canaryTrafficPercent" not in cluster.api.find("inferenceservices", "mistere")["spec"]["predictor"]  # type: ignore[index]
    shares = watch_shares(cluster)
    cluster.to(second, config).roll_out(second, nothing)
    assert shares()[-2:] == [20, 100]
    assert any("20 % of the traffic goes to the new revision" in message for message in cluster.messages)
    assert "canaryTrafficPercent" not in cluster.api.find("inferenceservices", "mistere")["spec"]["predictor"]  # type: ignore[index]


def test_a_restarting_canary_is_rolled_back(cluster: Cluster) -> None:
    config = KNATIVE.model_copy(update={"canary_percent": 20, "canary_seconds": 20})
    first, second = cluster.bundle("a"), cluster.bundle("b")
    cluster.to(first, config).roll_out(first, nothing)

    def renew_lease() -> None:
        if any("20 %" in message for message in cluster.messages):
            cluster.behave(second, "restarts", "mistere")

    shares = watch_shares(cluster)
    with pytest.raises(MistereError, match="restarted while it had 20 % of the traffic"):
        cluster.to(second, config).roll_out(second, renew_lease)
    observed = shares()
    assert cluster.served() == first.manifest.digest and max(observed[observed.index(20) :]) == 20


def sleep(deployment: ClusterDeployment) -> None:
    """Scale the deployment to zero as Knative does without requests."""
    revision = deployment._smoke_test.revision
    deadline = time.monotonic() + 180
    absent_since = time.monotonic()
    while time.monotonic() < absent_since + 0.3:  # a write in progress of the controller may restore the pods
        assert time.monotonic() < deadline
        for pod in revision.pods()[0]:
            deployment.api.delete(f"{revision.pods_path}/{pod['metadata']['name']}")
            absent_since = time.monotonic()
        time.sleep(0.02)


def test_a_setting_is_applied_to_a_service_scaled_to_zero(cluster: Cluster) -> None:
    config = KNATIVE.model_copy(update={"min_replicas": 0, "ready_timeout": 60})
    bundle = cluster.bundle("a")
    cluster.to(bundle, config).roll_out(bundle, nothing)
    sleep(cluster.to(bundle, config))
    rolled_out = cluster.to(bundle, config.model_copy(update={"max_replicas": 7})).roll_out(bundle, nothing)
    assert "unchanged and scaled to zero" in rolled_out.message
    assert cluster.api.find("inferenceservices", "mistere")["spec"]["predictor"]["maxReplicas"] == 7  # type: ignore[index]


def test_a_canary_without_requests_scales_to_zero_and_is_released(cluster: Cluster) -> None:
    config = KNATIVE.model_copy(
        update={"min_replicas": 0, "canary_percent": 20, "canary_seconds": 1, "ready_timeout": 60}
    )
    first, second = cluster.bundle("a"), cluster.bundle("b")
    cluster.to(first, config).roll_out(first, nothing)
    asleep: list[bool] = []

    def renew_lease() -> None:
        if not asleep and any("20 %" in message for message in cluster.messages):
            asleep.append(True)
            sleep(cluster.to(second, config))

    rolled_out = cluster.to(second, config).roll_out(second, renew_lease)
    assert asleep and "is scaled to zero now" in rolled_out.message and cluster.served() == second.manifest.digest


def test_changing_the_number_of_pods_creates_no_revision(cluster: Cluster) -> None:
    bundle = cluster.bundle("a")
    cluster.to(bundle, STANDARD).roll_out(bundle, nothing)
    pod = cluster.api.all("pods")[0]["metadata"]["name"]
    more = STANDARD.model_copy(update={"min_replicas": 2})
    cluster.to(bundle, more).roll_out(bundle, nothing)
    assert pod in {pod["metadata"]["name"] for pod in settled_pods(cluster, 2)}
    assert "PATCH mistere-candidate" not in cluster.server.changes()


def test_an_exception_while_waiting_rolls_back(cluster: Cluster) -> None:
    first, second = cluster.bundle("a"), cluster.bundle("b")
    cluster.to(first, STANDARD).roll_out(first, nothing)
    cluster.behave(second, "nowhere", "mistere")

    pressed: list[str] = []

    def renew_lease() -> None:
        if cluster.served() == second.manifest.digest and not pressed:
            pressed.append("Ctrl-C")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cluster.to(second, STANDARD).roll_out(second, renew_lease)
    assert cluster.served() == first.manifest.digest


def test_pods_are_called_at_their_own_address_inside_the_cluster(cluster: Cluster) -> None:
    from kubernetes.client import Configuration

    configuration = Configuration(host=cluster.server.url, api_key={"authorization": "bearer admin"})
    bundle = cluster.bundle("a")
    to = ClusterDeployment(
        KubernetesApi(configuration, inside=True), cluster.deployment(bundle, KNATIVE), cluster.messages.append
    )
    assert "by REST" in to.roll_out(bundle, nothing).message
    assert not any("proxy" in path for _, path in cluster.server.calls)


RIGHTS = frozenset(
    {
        *((verb, "inferenceservices") for verb in ("get", "watch", "create", "patch", "delete")),
        *((verb, "pods") for verb in ("list", "watch")),
        ("get", "pods/log"),
        ("list", "events"),
        *((verb, "deployments") for verb in ("get", "watch")),
    }
)
"""What the account of ``deploy_model`` needs; a person outside the cluster needs the proxy to the pods as well."""
OUTSIDE = frozenset({("get", "pods/proxy"), ("create", "pods/proxy")})


@pytest.mark.parametrize("config", [STANDARD, KNATIVE], ids=["standard", "knative"])
def test_the_documented_permissions_suffice(
    cluster: Cluster, config: DeploymentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.api.tokens["least"] = RIGHTS | OUTSIDE
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig("least")))
    first, second, third = (cluster.bundle(name) for name in "abc")
    cluster.to(first, config).roll_out(first, nothing)
    cluster.to(second, config).roll_out(second, nothing)
    cluster.behave(third, "crash", "mistere")
    with pytest.raises(MistereError, match=r"last events: .*its last lines"):
        cluster.to(third, config).roll_out(third, nothing)
    assert cluster.served() == second.manifest.digest


@pytest.mark.parametrize(
    ("verb", "what"),
    sorted(right for right in RIGHTS if right[0] != "watch" and right[1] not in {"pods/log", "events"}),
)
def test_a_missing_permission_is_named(cluster: Cluster, verb: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.api.tokens["less"] = (RIGHTS | OUTSIDE) - {(verb, what)}
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig("less")))
    bundle = cluster.bundle("a")
    cluster.behave(bundle, "crash")
    with pytest.raises(MistereError, match=f"cannot {verb} resource .{what}.*bind that account to a Role"):
        cluster.to(bundle, STANDARD).roll_out(bundle, nothing)


def test_a_user_outside_the_cluster_needs_the_pod_proxy(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.api.tokens["less"] = RIGHTS
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig("less")))
    bundle = cluster.bundle("a")
    with pytest.raises(MistereError, match="allow get and create on pods/proxy"):
        cluster.to(bundle, STANDARD).roll_out(bundle, nothing)
    assert is_gone(cluster, "mistere")


def test_invalid_settings_are_rejected_before_applying(cluster: Cluster) -> None:
    bundle = cluster.bundle("a")
    cluster.api.admit = lambda manifest: "maxReplicas cannot be less than minReplicas"
    with pytest.raises(MistereError, match=r"the cluster rejects it \(admission webhook.*maxReplicas"):
        cluster.to(bundle, STANDARD).roll_out(bundle, nothing)
    assert cluster.server.changes() == []


def test_a_service_of_another_manager_is_unchanged(cluster: Cluster) -> None:
    first, second = cluster.bundle("a"), cluster.bundle("b")
    cluster.to(first, STANDARD).roll_out(first, nothing)
    cluster.api.edit("inferenceservices", "mistere", {"spec": {"predictor": {"minReplicas": 2}}})
    cluster.server.calls.clear()
    with pytest.raises(MistereError, match=r"other field managers own.*kubectl-edit.*minReplicas"):
        cluster.to(second, STANDARD).roll_out(second, nothing)
    assert cluster.server.changes() == []


def test_a_mode_that_is_not_installed_is_reported_from_events(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smoke_test, "_WATCH_SECONDS", 0.2)
    cluster.controller.stop()
    bundle = cluster.bundle("a")
    cluster.api.event("mistere", "InternalError", "Knative Services are not available")
    cluster.api.event("mistere-candidate", "Old", "of another")
    with pytest.raises(MistereError, match=r"it has no pod; last events: InternalError: Knative Services are not"):
        cluster.to(bundle, KNATIVE.model_copy(update={"ready_timeout": 0.1})).roll_out(bundle, nothing)
