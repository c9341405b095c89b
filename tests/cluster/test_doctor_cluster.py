"""``mistere doctor`` on the cluster's settings: retries and lifetime, the network, and what the nodes have free."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
import yaml

from pipelines.cli.doctor import http_probe
from pipelines.cli.doctor.groups import cluster, kubeflow, network, nodes, run_settings, workflows
from pipelines.cli.doctor.node_usage import requests_of
from pipelines.cli.doctor.result import CheckResult
from pipelines.kubeflow.connection.client import Pipelines
from tests.cluster.doctor_checks import (  # noqa: F401 - fixtures
    cluster_results,
    ignore_this_machine,
    plan,
    results_of,
    serve_kubernetes_api,
    serve_pipelines_api,
    troubles,
)
from tests.stand_ins.doctor_cluster import (
    MANIFESTS,
    KubernetesApi,
    PipelinesApi,
    api_endpoints,
    base_policies,
    persistence_agent,
    running_pod,
    settings_map,
    workflow_settings,
)
from tests.stand_ins.http_server import Reply

Break = Callable[[KubernetesApi], object]


def group_results(module: Any, *settings: str, profile: str = "sample") -> dict[str, CheckResult]:
    return results_of(module.group(cluster.Cluster(plan(profile, *settings, host="https://kfp.example.org"))))


def put(tail: str, value: Any) -> Break:
    return lambda api: api.objects.update({api.at(tail): value})


def drop(tail: str) -> Break:
    return lambda api: api.drop(tail)


# Retries and lifetime

CONFIGURATION = "/configmaps/workflow-controller-configmap"
RETRIES: dict[str, tuple[dict[str, str], str, str]] = {
    # What each strategy retries was seen on Argo 4.0.5 with KFP 2.17.0.
    "stock": (
        {"limit": "2", "retryPolicy": "OnError"},
        "note",
        "only a pod that Kubernetes deleted is retried (retryPolicy OnError, limit 2 where a step has no `retries`); a process that fails or is killed",
    ),
    "always": (
        {"limit": "2", "retryPolicy": "Always"},
        "note",
        "and so is each level above a step, up to 2 times (retryPolicy Always): a step that cannot work is tried many times",
    ),
    "always, without a limit": ({"retryPolicy": "Always"}, "note", "each level above a step, without a limit"),
    "always, limit 0": ({"limit": "0", "retryPolicy": "Always"}, "note", "and a driver never (limit 0"),
    "none": ({}, "note", "a pod that Kubernetes deleted ends the run"),
    "transient": ({"retryPolicy": "OnTransientError"}, "note", "only errors that Argo takes for transient"),
    "another expression": ({"limit": "2", "expression": "true"}, "note", "the expression 'true' decides"),
    "ours with other spaces": (
        {"limit": "5", "expression": f"  {workflows.EXPRESSION.replace(chr(39), chr(34))}\n"},
        "ok",
        "a step as often as its `retries`, a driver up to 5 times; the levels above them are not repeated",
    ),
}


@pytest.mark.parametrize("name", RETRIES)
def test_doctor_says_what_is_retried(name: str, kubernetes_api: KubernetesApi) -> None:
    strategy, status, message_part = RETRIES[name]
    kubernetes_api.objects[kubernetes_api.at(CONFIGURATION)] = workflow_settings(strategy)
    result = group_results(workflows)["retries"]
    assert (result.status, message_part in result.sentence) == (status, True), result
    fix = "apply manifests/kubeflow-pipelines/workflow-defaults.yaml (docs/guides/cluster.md, Retries)"
    assert (fix in result.sentence) is (status == "note")


def test_the_patch_of_the_manifests_passes(kubernetes_api: KubernetesApi) -> None:
    patch = yaml.safe_load((MANIFESTS / "kubeflow-pipelines" / "workflow-defaults.yaml").read_text(encoding="utf-8"))
    strategy = yaml.safe_load(patch["data"]["workflowDefaults"])["spec"]["templateDefaults"]["retryStrategy"]
    assert strategy["expression"] == workflows.EXPRESSION
    results = group_results(workflows)
    assert troubles(results) == {} and "a driver up to 2 times" in results["retries"].sentence
    # Argo also reads all settings from the key `config`.
    kubernetes_api.objects[kubernetes_api.at(CONFIGURATION)] = {
        "data": {"config": yaml.safe_dump({"workflowDefaults": yaml.safe_load(patch["data"]["workflowDefaults"])})}
    }
    assert group_results(workflows)["retries"] == results["retries"]


@pytest.mark.parametrize(
    ("prepare", "status", "message_part"),
    [
        (drop(CONFIGURATION), "skipped", "there is no ConfigMap workflow-controller-configmap in namespace kubeflow"),
        (lambda api: api.forbidden.append(CONFIGURATION), "skipped", "may not read ConfigMaps in namespace kubeflow"),
        (put(CONFIGURATION, {"data": {"workflowDefaults": "a: b: c"}}), "failed", "are not valid: fix them"),
        (put(CONFIGURATION, {"data": {"workflowDefaults": "text"}}), "failed", "are not valid: fix them"),
        (put(CONFIGURATION, {}), "note", "retryPolicy OnFailure"),
    ],
    ids=["missing", "forbidden", "not YAML", "not a mapping", "empty"],
)
def test_retries_that_cannot_be_read_are_reported(
    prepare: Break,
    status: str,
    message_part: str,
    kubernetes_api: KubernetesApi,
) -> None:
    prepare(kubernetes_api)
    result = group_results(workflows)["retries"]
    assert (result.status, message_part in result.sentence) == (status, True), result


def test_doctor_says_how_long_workflows_stay(kubernetes_api: KubernetesApi) -> None:
    agent = kubernetes_api.at("/ml-pipeline-persistenceagent")
    assert group_results(workflows)["lifetime"].sentence == "a finished workflow stays for 7 days (cluster.run_ttl)."
    kubernetes_api.objects[agent] = persistence_agent("86400")  # KFP's stock value
    result = group_results(workflows)["lifetime"]
    assert (
        result.status == "note" and "stays for 1 day: cluster.run_ttl is 7 days, but the persistence" in result.sentence
    )
    assert (
        "raise TTL_SECONDS_AFTER_WORKFLOW_FINISH of the Deployment kubeflow/ml-pipeline-persistenceagent"
        in result.sentence
    )
    result = group_results(workflows, "cluster.run_ttl=5400")["lifetime"]
    assert (result.status, "stays for 90 minutes" in result.sentence) == ("ok", True)
    kubernetes_api.forbidden.append("/ml-pipeline-persistenceagent$")
    result = group_results(workflows)["lifetime"]
    assert result.status == "ok" and "whose settings cannot be read (stock: after 1 day)" in result.sentence


def test_kubeflow_pipelines_may_be_in_another_namespace(kubernetes_api: KubernetesApi) -> None:
    for tail in (CONFIGURATION, "/ml-pipeline-persistenceagent"):
        path = kubernetes_api.at(tail)
        kubernetes_api.objects[path.replace("/kubeflow/", "/ml-platform/")] = kubernetes_api.objects.pop(path)
    assert group_results(workflows)["retries"].sentence == (
        "there is no ConfigMap workflow-controller-configmap in namespace kubeflow: set cluster.kubeflow_namespace to the namespace of "
        "Kubeflow Pipelines."
    )
    elsewhere = "cluster.kubeflow_namespace=ml-platform"
    assert troubles(group_results(workflows, elsewhere)) == {}
    result = group_results(network, elsewhere)["Kubeflow Pipelines"]
    assert result.status == "failed"
    assert (
        "do not let the steps reach Kubeflow Pipelines in namespace ml-platform (port 8887): add a policy"
        in result.sentence
    )
    policies = kubernetes_api.objects[kubernetes_api.at(POLICIES)]
    policies[:] = yaml.safe_load(yaml.safe_dump(policies).replace("kubeflow", "ml-platform"))
    assert troubles(group_results(network, elsewhere)) == {}


# Runs of other clients

SETTINGS = "/configmaps/mistere-settings"
STORE, TRACKING = {"MISTERE_STORE": "s3://bucket/mistere"}, {"MLFLOW_TRACKING_URI": "https://mlflow.example.org"}
RUN_SETTINGS: dict[str, tuple[Break, str]] = {
    "missing": (
        drop(SETTINGS),
        "there is no ConfigMap mistere-settings in namespace mistere, so only runs of `mistere submit`",
    ),
    "as applied": (
        put(SETTINGS, settings_map()),
        "lacks MISTERE_STORE and MLFLOW_TRACKING_URI, so a run that is started without parameters ends in its first step",
    ),
    "blank": (put(SETTINGS, settings_map(**STORE, MLFLOW_TRACKING_URI=" ")), "lacks MLFLOW_TRACKING_URI, so"),
    "misspelt": (
        put(SETTINGS, settings_map(MISTERE_STOR="s3://bucket", **TRACKING)),
        "lacks MISTERE_STORE (it has MISTERE_STOR, probably for 'MISTERE_STORE'), so",
    ),
    "half of a version": (
        put(SETTINGS, settings_map(**STORE, **TRACKING, MISTERE_DATA_DIGEST="078338f3c422.dir")),
        "has only one of MISTERE_DATA_REMOTE and MISTERE_DATA_DIGEST: set both",
    ),
    "a folder": (
        put(SETTINGS, settings_map(MISTERE_STORE="output/store", **TRACKING)),
        "names a store that pods cannot reach (output/store): set MISTERE_STORE to s3://bucket/prefix",
    ),
    "a password": (
        put(SETTINGS, settings_map(**STORE, MLFLOW_TRACKING_URI="https://me:hush-hush@mlflow.example.org")),
        "has credentials in MLFLOW_TRACKING_URI: remove them",
    ),
}


@pytest.mark.parametrize("name", RUN_SETTINGS)
def test_doctor_says_what_runs_of_other_clients_lack(name: str, kubernetes_api: KubernetesApi) -> None:
    """A note, not a failure: `mistere submit` passes complete parameters."""
    prepare, message_part = RUN_SETTINGS[name]
    assert troubles(group_results(run_settings)) == {}
    prepare(kubernetes_api)
    result = group_results(run_settings)["settings"]
    assert (result.status, message_part in result.sentence) == ("note", True), result
    assert "docs/guides/any-client.md" in result.sentence


def test_runs_of_other_clients_use_the_same_store(kubernetes_api: KubernetesApi) -> None:
    def result(store: str) -> CheckResult:
        connection = cluster.Cluster(plan(host="https://kfp.example.org", store=store))
        return results_of(run_settings.group(connection))["settings"]

    assert result("s3://models/mistere/").status == "ok"
    other = result("s3://trial")
    assert (
        other.status == "note"
        and "names another store (s3://models/mistere) than this run's (s3://trial)" in other.sentence
    )
    kubernetes_api.forbidden.append(SETTINGS)
    assert result("s3://trial").sentence == "these credentials may not read ConfigMaps in namespace mistere."


# The network

POLICIES = "/namespaces/mistere/networkpolicies"
ENDPOINTS = "/endpointslices/kubernetes"


def node_local_dns(addresses: str) -> Break:
    """NodeLocal DNSCache; upstream's DaemonSet names its addresses in ``-localip``: its own and, with iptables, kube-dns's."""
    arguments = ["-localip", addresses, "-conf", "/etc/Corefile", "-upstreamsvc", "kube-dns-upstream"]
    spec = {"template": {"spec": {"hostNetwork": True, "containers": [{"name": "node-cache", "args": arguments}]}}}
    path = "/apis/apps/v1/namespaces/kube-system/daemonsets/node-local-dns"
    return lambda api: api.objects.update({path: {"metadata": {"name": "node-local-dns"}, "spec": spec}})


def openshift(api: KubernetesApi) -> None:
    """OpenShift's DNS operator is configured by ``dnses.operator.openshift.io``."""
    api.objects["/apis/operator.openshift.io/v1"] = api.resources("dnses")


NETWORKS: dict[str, tuple[Break, str, str, str]] = {
    "NodeLocal DNSCache": (
        node_local_dns("169.254.20.10"),
        "DNS",
        "dns-node-local",
        "do not let the steps ask NodeLocal DNSCache at 169.254.20.10 (UDP port 53), so no name is resolved: add "
        "manifests/components/dns-node-local to your overlay, and apply it.",
    ),
    "OpenShift": (
        openshift,
        "DNS",
        "dns-openshift",
        "ask OpenShift's DNS in namespace openshift-dns (UDP port 5353), so no name is resolved: add "
        "manifests/components/dns-openshift to",
    ),
    "minikube": (
        put(ENDPOINTS, api_endpoints("192.168.49.2", 8443)),
        "the Kubernetes API",
        "api-server-8443",
        "listens at 192.168.49.2 port 8443: add manifests/components/api-server-8443 to your overlay",
    ),
    "MicroK8s": (
        put(ENDPOINTS, api_endpoints("192.168.1.7", 16443)),
        "the Kubernetes API",
        "api-server-16443",
        "port 16443: add manifests/components/api-server-16443 to",
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_doctor_names_the_component_that_a_network_needs(name: str, kubernetes_api: KubernetesApi) -> None:
    prepare, check, component, message_part = NETWORKS[name]
    assert troubles(group_results(network)) == {}
    prepare(kubernetes_api)
    result = group_results(network)[check]
    assert (result.status, message_part in result.sentence) == ("failed", True), result
    kubernetes_api.objects[kubernetes_api.at(POLICIES)] = base_policies(component)
    assert troubles(group_results(network)) == {}


@pytest.mark.parametrize("setting", ["text.num_nodes=2", "speech.nodes.trainjob=true"])
def test_training_nodes_need_the_dns_too(setting: str, kubernetes_api: KubernetesApi) -> None:
    policies = kubernetes_api.objects[kubernetes_api.at(POLICIES)]
    (dns,) = [policy for policy in policies if policy["metadata"]["name"] == "dns"]
    runs = {"matchExpressions": [{"key": "workflows.argoproj.io/workflow", "operator": "Exists"}]}
    predictors = {"matchLabels": {"app.kubernetes.io/name": "mistere-predictor"}}
    dns["spec"]["podSelector"] = runs
    policies.append({"metadata": {"name": "predictors"}, "spec": {**dns["spec"], "podSelector": predictors}})
    assert troubles(group_results(network)) == {}
    result = group_results(network, setting)["DNS"]
    assert result.status == "failed" and "do not let the training nodes ask kube-dns" in result.sentence


def test_the_cache_may_answer_at_the_address_of_kube_dns(kubernetes_api: KubernetesApi) -> None:
    node_local_dns("169.254.20.10,10.96.0.10")(kubernetes_api)
    kubernetes_api.objects[kubernetes_api.at(POLICIES)] = base_policies("dns-node-local")
    sentence = group_results(network)["DNS"].sentence
    assert sentence.endswith(
        "add manifests/components/dns-node-local to your overlay, and apply it, with the address 10.96.0.10/32."
    )


def test_other_networks_are_reported(kubernetes_api: KubernetesApi) -> None:
    kubernetes_api.objects[kubernetes_api.at(ENDPOINTS)] = api_endpoints("10.0.0.5", 7443)
    result = group_results(network)["the Kubernetes API"]
    assert "add a policy like manifests/components/api-server-8443 for this port" in result.sentence
    policies = kubernetes_api.objects[kubernetes_api.at(POLICIES)]
    policies[:] = [policy for policy in policies if policy["metadata"]["name"] != "dns"]
    result = group_results(network)["DNS"]
    assert result.status == "failed" and "ask kube-dns in namespace kube-system" in result.sentence
    policies.append({"spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]}})
    assert troubles(group_results(network)) == {}, "a policy that allows everything"
    policies.clear()
    assert {result.sentence for result in group_results(network).values()} == {
        "no NetworkPolicy limits the pods.",
        "no NetworkPolicy limits the steps.",
    }


def test_the_servers_of_the_profile_must_be_admitted(
    kubernetes_api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The addresses are those of the components' placeholders; the predictor does not need MLflow."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://192.0.2.10")

    def check(mode: str) -> CheckResult:
        named = plan("sample", f"deployment.mode={mode}", store="s3://bucket/mistere", tracking="https://198.51.100.10")
        return results_of(network.group(cluster.Cluster(named)))["store and MLflow"]

    result = check("standard")
    assert result.status == "failed" and "do not let the steps reach the store (https://192.0.2.10)" in result.sentence
    assert "put its network into manifests/components/store, add that to your overlay" in result.sentence
    policies = base_policies("store")
    kubernetes_api.objects[kubernetes_api.at(POLICIES)] = policies
    assert "the MLflow server (https://198.51.100.10) at 198.51.100.10 port 443" in check("standard").sentence
    policies[:] = base_policies("store", "tracking")
    assert check("standard").status == "ok"
    policies[:] = [policy for policy in policies if policy["metadata"]["name"] != "store-predictor"]
    assert "do not let the predictor reach the store" in check("standard").sentence
    assert check("local").status == "ok"


@pytest.mark.parametrize(
    ("forbidden", "check", "message_part"),
    [
        ("/networkpolicies$", "DNS", "may not list network policies in namespace mistere"),
        ("/daemonsets/", "DNS", "may not read DaemonSets in kube-system"),
        ("/endpointslices/", "the Kubernetes API", "may not read endpoints in namespace default"),
    ],
)
def test_a_network_that_may_not_be_read_is_skipped(
    forbidden: str,
    check: str,
    message_part: str,
    kubernetes_api: KubernetesApi,
) -> None:
    kubernetes_api.forbidden.append(forbidden)
    result = group_results(network)[check]
    assert (result.status, message_part in result.sentence) == ("skipped", True), result


# What the nodes have free


def small_node(api: KubernetesApi) -> None:
    """A node of 2 cores and 8 GiB, of which Kubernetes, Kubeflow Pipelines and KServe request most of the CPU."""
    machine = api.objects[api.at("/nodes")][0]
    api.objects[api.at("/nodes")] = [machine]
    machine["status"]["allocatable"] = {"cpu": "2", "memory": "7800Mi"}
    api.objects[api.at("/api/v1/pods")] = [running_pod("cpu-1", "1600m", "3300Mi")]


@pytest.mark.parametrize("profile", ["tiny", "sample"])
def test_small_profiles_fit_beside_what_runs_on_a_small_node(profile: str, kubernetes_api: KubernetesApi) -> None:
    small_node(kubernetes_api)
    assert troubles(group_results(nodes, profile=profile)) == {}


STEP = "cluster.steps.train_moe"
TAKEN: dict[str, tuple[list[dict[str, Any]], str, str]] = {
    "a CPU that others request": (
        [running_pod("cpu-1", "14", "1Gi"), running_pod("cpu-1", "500m", "1Gi")],
        "failed",
        "train_moe fits on no node (cpu-1 has 15500m cpu, of which other pods request 14.5, it asks for 2): change",
    ),
    "memory that others request": (
        [running_pod("cpu-1", "1", "61Gi")],
        "failed",
        "train_moe fits on no node (cpu-1 has 64Gi memory, of which other pods request 61.0Gi, it asks for 4Gi",
    ),
    "a run that ends": (
        [running_pod("cpu-1", "14", "1Gi", owner="Workflow")],
        "note",
        "train_moe will wait until running jobs end (cpu-1 has 15500m cpu, of which other pods request 14,",
    ),
    "pods that have ended": (
        [running_pod("cpu-1", "14", "1Gi", phase="Succeeded"), running_pod("cpu-1", "14", "1Gi", phase="Failed")],
        "ok",
        "",
    ),
    "pods of another node": ([running_pod("gpu-1", "14", "1Gi")], "ok", ""),
}


@pytest.mark.parametrize("name", TAKEN)
def test_requests_are_compared_with_what_is_free(name: str, kubernetes_api: KubernetesApi) -> None:
    pods, status, message_part = TAKEN[name]
    kubernetes_api.objects[kubernetes_api.at("/api/v1/pods")] = pods
    result = group_results(nodes, f"{STEP}.cpu=2", f"{STEP}.memory=4Gi")["largest step"]
    assert (result.status, message_part in result.sentence) == (status, True), result


def test_gpus_that_others_request_are_not_free(kubernetes_api: KubernetesApi) -> None:
    finished_pod = running_pod("gpu-1", "1", "1Gi")
    finished_pod["spec"]["containers"][0]["resources"]["requests"]["nvidia.com/gpu"] = "4"
    kubernetes_api.objects[kubernetes_api.at("/api/v1/pods")] = [finished_pod]
    result = group_results(nodes, profile="gpu")["GPU nodes"]
    assert result.status == "failed"
    assert "gpu-1 has 4 nvidia.com/gpu, of which other pods request 4, it asks for 1" in result.sentence


def test_the_predictor_must_fit_too(kubernetes_api: KubernetesApi) -> None:
    result = group_results(nodes, "deployment.memory=100Gi", "deployment.memory_limit=100Gi")["largest step"]
    assert result.status == "failed" and "the predictor fits on no node" in result.sentence
    assert "change deployment, or add such a node" in result.sentence


def test_pods_that_may_not_be_listed_are_left_out(kubernetes_api: KubernetesApi) -> None:
    kubernetes_api.objects[kubernetes_api.at("/api/v1/pods")] = [running_pod("cpu-1", "15", "60Gi")]
    kubernetes_api.forbidden.append("/api/v1/pods$")
    result = group_results(nodes)["largest step"]
    assert result.status == "ok" and "what runs there is unknown, since pods may not be listed" in result.sentence


def test_a_pods_requests_are_what_the_scheduler_counts() -> None:
    """As in Kubernetes' documentation of sidecars: the larger of all containers, and of any init container with its sidecars."""

    def container(cpu: str, **more: str) -> dict[str, Any]:
        return {"name": "c", "resources": {"requests": {"cpu": cpu}}, **more}

    sidecar = container("200m", restartPolicy="Always")
    spec: dict[str, Any] = {"containers": [container("500m"), container("100m"), {"name": "without"}]}
    assert requests_of({"spec": spec}) == {"cpu": Decimal("0.6")}
    spec["initContainers"] = [container("700m"), sidecar]
    assert requests_of({"spec": spec}) == {"cpu": Decimal("0.8")}
    spec["initContainers"] = [sidecar, container("700m")]
    assert requests_of({"spec": spec}) == {"cpu": Decimal("0.9")}
    spec["overhead"] = {"cpu": "50m", "memory": "1Ki"}
    assert requests_of({"spec": spec}) == {"cpu": Decimal("0.95"), "memory": Decimal(1024)}


# A server that has just started


def test_doctor_waits_as_long_as_submit(pipelines_api: PipelinesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that has just started answers the first request to each of its parts late."""
    submit = inspect.signature(Pipelines.__init__).parameters["timeout"].default
    assert submit == http_probe.TIMEOUT_SECONDS
    pipelines_api.slow = 1
    monkeypatch.setattr(http_probe, "TIMEOUT_SECONDS", (0.2, 0.2))
    monkeypatch.setattr(
        Pipelines.__init__,
        "__defaults__",
        tuple((0.2, 0.2) if value == submit else value for value in Pipelines.__init__.__defaults__ or ()),
    )
    assert troubles(results_of(kubeflow.group(plan(host=pipelines_api.url)))) == {}


def test_passing_failures_of_the_server_are_repeated(
    pipelines_api: PipelinesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            pipelines_api.trouble = None

    monkeypatch.setattr(time, "sleep", sleep)
    pipelines_api.trouble = Reply(503, {})
    assert troubles(results_of(kubeflow.group(plan(host=pipelines_api.url)))) == {}
    assert waited == [0.5, 1.0]
