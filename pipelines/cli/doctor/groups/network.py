"""The network: whether the NetworkPolicies let pods ask the cluster's DNS, and the steps use the Kubernetes API."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

from mistere.common.modalities import MODALITIES
from mistere.config.cluster import KUBEFLOW_NAMESPACE
from mistere.serving.kserve.inference_service import POD_LABELS
from pipelines.cli.doctor.groups.cluster import AbsentError, Cluster
from pipelines.cli.doctor.network_policies import Target, admits
from pipelines.cli.doctor.result import Check, CheckGroup, CheckResult, SkippedError, failed, ok

_STEP = {"workflows.argoproj.io/workflow": "a-run"}
_NODE = {"jobset.sigs.k8s.io/jobset-name": "a-training"}
_COMPONENTS: Final = "manifests/components"
_PORTS_OF_COMPONENTS: Final = (8443, 16443)
_PIPELINES_PORT: Final = 8887
"""The gRPC port of ``ml-pipeline``, which drivers and launchers use."""
_LOCAL_DNS: Final = "169.254.20.10"
_CACHE: Final = "node-local-dns"


def group(cluster: Cluster) -> CheckGroup:
    """The checks of the network."""
    return CheckGroup(
        "Network",
        [
            Check("DNS", lambda: _dns(cluster)),
            Check("the Kubernetes API", lambda: _kubernetes_api(cluster)),
            Check("Kubeflow Pipelines", lambda: _kubeflow_pipelines(cluster)),
        ],
    )


def _policies(cluster: Cluster, namespace: str) -> list[dict[str, Any]]:
    path = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"
    return cluster.list_objects(path, f"list network policies in namespace {namespace}")


def _dns(cluster: Cluster) -> CheckResult:
    """Whether steps, training nodes and predictors may ask the DNS that answers pods in this cluster."""
    config = cluster.plan.config
    runs, serving = config.cluster.namespace, config.deployment.namespace
    pods = [("the steps", runs, _STEP)]
    if any(getattr(config, modality).uses_trainjob for modality in MODALITIES):
        pods.append(("the training nodes", runs, _NODE))
    if cluster.mode != "local":
        pods.append(("the predictor", serving, POD_LABELS))
    policies = {namespace: _policies(cluster, namespace) for _, namespace, _ in pods}
    if not any(policies.values()):
        return ok("no NetworkPolicy limits the pods.")
    name, port, target, fix = _dns_of(cluster)
    for users, namespace, labels in pods:
        for protocol in ("UDP", "TCP"):
            if not admits(policies[namespace], namespace, labels, Target(port, protocol, **target)):
                return failed(
                    f"the NetworkPolicies of namespace {namespace} do not let {users} ask {name} ({protocol} port {port}), so no name is "
                    f"resolved: {fix}."
                )
    return ok(f"{name} may be reached.")


def _dns_of(cluster: Cluster) -> tuple[str, int, dict[str, Any], str]:
    """The DNS of the cluster: its name, port and target, and how to admit it."""
    if cluster.serves("operator.openshift.io", "v1", "dnses"):
        labels = {"dns.operator.openshift.io/daemonset-dns": "default"}
        target = {"namespace": "openshift-dns", "labels": labels}
        return "OpenShift's DNS in namespace openshift-dns", 5353, target, _component("dns-openshift")
    try:
        cache = cluster.get(
            f"/apis/apps/v1/namespaces/kube-system/daemonsets/{_CACHE}", "read DaemonSets in kube-system"
        )
    except AbsentError:
        kube_dns: dict[str, Any] = {"namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}}
        return (
            "kube-dns in namespace kube-system",
            53,
            kube_dns,
            "admit it, as manifests/base/network-policies.yaml does",
        )
    address = _address_of(cache)
    fix = _component("dns-node-local")
    if address != _LOCAL_DNS:
        fix += f", with the address {address}/32"
    return f"NodeLocal DNSCache at {address}", 53, {"address": address}, fix


def _address_of(cache: dict[str, Any]) -> str:
    """The address at which pods ask the cache.

    ``-localip`` lists the addresses that it listens on. Where kube-proxy uses iptables, the last one is that of the Service
    kube-dns, which pods keep asking; with IPVS there is only the cache's own.
    """
    for container in cache["spec"]["template"]["spec"]["containers"]:
        arguments = [*(container.get("command") or []), *(container.get("args") or [])]
        for option, value in pairwise(arguments):
            if option.lstrip("-") == "localip":
                return str(value).split(",")[-1].strip()
    return _LOCAL_DNS


def _kubernetes_api(cluster: Cluster) -> CheckResult:
    """Whether the steps may reach the API server at the port where it listens, behind its Service's 443."""
    namespace = cluster.plan.config.cluster.namespace
    policies = _policies(cluster, namespace)
    if not policies:
        return ok("no NetworkPolicy limits the steps.")
    path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes"
    try:
        endpoints = cluster.get(path, "read endpoints in namespace default")
        address, port = str(endpoints["endpoints"][0]["addresses"][0]), int(endpoints["ports"][0]["port"])
    except (AbsentError, LookupError) as error:
        raise SkippedError("the addresses of the Kubernetes API are unknown.") from error
    if admits(policies, namespace, _STEP, Target(port, address=address)):
        return ok(f"the steps may reach {address} at port {port}.")
    if port in _PORTS_OF_COMPONENTS:
        fix = _component(f"api-server-{port}")
    else:
        fix = f"add a policy like {_COMPONENTS}/api-server-{_PORTS_OF_COMPONENTS[0]} for this port to your overlay, and apply it"
    return failed(
        f"the NetworkPolicies of namespace {namespace} do not let the steps reach the Kubernetes API, which listens at {address} port "
        f"{port}: {fix}."
    )


def _kubeflow_pipelines(cluster: Cluster) -> CheckResult:
    """Whether the drivers and launchers of a run may reach the API of Kubeflow Pipelines."""
    namespace, target = cluster.plan.config.cluster.namespace, cluster.kubeflow_namespace
    policies = _policies(cluster, namespace)
    if not policies:
        return ok("no NetworkPolicy limits the steps.")
    if admits(policies, namespace, _STEP, Target(_PIPELINES_PORT, namespace=target)):
        return ok(f"the steps may reach namespace {target}.")
    return failed(
        f"the NetworkPolicies of namespace {namespace} do not let the steps reach Kubeflow Pipelines in namespace {target} (port "
        f"{_PIPELINES_PORT}): add a policy that admits it, as manifests/base/network-policies.yaml does for {KUBEFLOW_NAMESPACE}, or "
        "correct cluster.kubeflow_namespace."
    )


def _component(name: str) -> str:
    return f"add {_COMPONENTS}/{name} to your overlay, and apply it"
