"""The network: whether the NetworkPolicies let pods ask the cluster's DNS, and the steps use the Kubernetes API."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Final
from urllib.parse import urlsplit

from mistere.artifacts.s3.store import S3Store
from mistere.common.urls import server_of
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
_PREDICTOR: Final = "the predictor"
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
            Check("store and MLflow", lambda: _named_servers(cluster)),
        ],
    )


def _policies(cluster: Cluster, namespace: str) -> list[dict[str, Any]]:
    path = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"
    return cluster.list_objects(path, f"list network policies in namespace {namespace}")


def _pods(cluster: Cluster) -> list[tuple[str, str, dict[str, str]]]:
    """The pods of a run: what they are called, their namespace and their labels."""
    config = cluster.plan.config
    runs, serving = config.cluster.namespace, config.deployment.namespace
    pods = [("the steps", runs, _STEP)]
    if any(encoder.uses_trainjob for encoder in config.encoders().values()):
        pods.append(("the training nodes", runs, _NODE))
    if cluster.mode != "local":
        pods.append((_PREDICTOR, serving, POD_LABELS))
    return pods


def _dns(cluster: Cluster) -> CheckResult:
    """Whether steps, training nodes and predictors may ask the DNS that answers pods in this cluster."""
    pods = _pods(cluster)
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


def _named_servers(cluster: Cluster) -> CheckResult:
    """Whether the pods may reach the store and the tracking server that the profile names, where this machine resolves their names."""
    pods = _pods(cluster)
    policies = {namespace: _policies(cluster, namespace) for _, namespace, _ in pods}
    if not any(policies.values()):
        return ok("no NetworkPolicy limits the pods.")
    servers, checked = list(_servers(cluster)), []
    if not servers:
        return ok("no store or tracking server is named.")
    for server, component, url in servers:
        for address, port in _addresses(url):
            for users, namespace, labels in pods:
                needed = users != _PREDICTOR or component == "store"
                if needed and not admits(policies[namespace], namespace, labels, Target(port, address=address)):
                    return failed(
                        f"the NetworkPolicies of namespace {namespace} do not let {users} reach {server} ({server_of(url)}) at {address} "
                        f"port {port}: put its network into {_COMPONENTS}/{component}, add that to your overlay, and apply it."
                    )
            checked.append(f"{server} at {address}")
    if not checked:
        raise SkippedError("this machine does not know the addresses of the store and the tracking server.")
    return ok(f"{' and '.join(checked)} may be reached.")


def _servers(cluster: Cluster) -> Iterator[tuple[str, str, str]]:
    """The servers that the profile names: what they are called, the component that admits them, and their URL."""
    plan = cluster.plan
    if plan.store.startswith("s3://"):
        yield "the store", "store", S3Store(plan.store).endpoint
    if plan.tracking.startswith(("http://", "https://")):
        yield "the MLflow server", "tracking", plan.tracking


def _addresses(url: str) -> Iterator[tuple[str, int]]:
    """The first address of a server, and its port; none for a name that is not known here or means this machine."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        entries = socket.getaddrinfo(parts.hostname, port, socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, ValueError):
        return
    addresses = [str(entry[4][0]) for entry in entries if not ipaddress.ip_address(entry[4][0]).is_loopback]
    yield from ((address, port) for address in addresses[:1])


def _component(name: str) -> str:
    return f"add {_COMPONENTS}/{name} to your overlay, and apply it"
