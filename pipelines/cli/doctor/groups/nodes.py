"""Capacity for the steps: nodes with enough CPU, memory and GPUs, and quotas and limits that admit each pod."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from mistere.config.base import Toleration
from mistere.config.cluster import StepSettings
from pipelines.cli.doctor.groups.cluster import Cluster
from pipelines.cli.doctor.result import Check, CheckGroup, CheckResult, failed, note, ok

Node = dict[str, Any]

_BLOCKING = frozenset({"NoSchedule", "NoExecute"})


def group(cluster: Cluster) -> CheckGroup:
    """The checks of nodes and quotas."""
    return CheckGroup(
        "Capacity",
        [
            Check("GPU nodes", lambda: _gpus(cluster)),
            Check("largest step", lambda: _fits(cluster)),
            Check("quotas", lambda: _quotas(cluster)),
            Check("limits", lambda: _limits(cluster)),
        ],
    )


def _number(quantity: str | int | None) -> Decimal:
    """The value of a Kubernetes quantity, in units or bytes."""
    from kubernetes.utils import parse_quantity

    return Decimal(parse_quantity(quantity or 0))


def _gpus(cluster: Cluster) -> CheckResult:
    plan = cluster.plan
    asking = [pods for pods in plan.pods() if pods.pod.gpus]
    if not asking:
        return ok(f"the profile {plan.profile} asks for none.")
    ready = cluster.nodes
    for pods in asking:
        kind = pods.pod.gpu_type
        with_gpus = [node for node in ready if _number(_allocatable(node).get(kind))]
        if not with_gpus:
            names = ", ".join(other.name for other in asking if other.pod.gpu_type == kind)
            return failed(
                f"no node has any {kind}, and the profile {plan.profile} asks for them in {names}: add GPU nodes with their "
                "device plugin (an autoscaled pool of zero nodes does not count), or choose a profile for CPUs."
            )
        refusals = [_refusal(node, pods.pod) for node in with_gpus]
        if all(refusals):
            return failed(f"{pods.name} fits on no node ({refusals[0]}): change {pods.setting}, or add such a node.")
    return ok(f"{', '.join(pods.name for pods in asking)} fit.")


def _fits(cluster: Cluster) -> CheckResult:
    """Whether each pod without GPUs fits on a node."""
    without_gpus = [pods for pods in cluster.plan.pods() if not pods.pod.gpus]
    ready = cluster.nodes
    for pods in without_gpus:
        refusals = [_refusal(node, pods.pod) for node in ready]
        if all(refusals):
            return failed(f"{pods.name} fits on no node ({refusals[0]}): change {pods.setting}, or add such a node.")
    largest = max(without_gpus, key=lambda pods: _number(pods.pod.memory))
    return ok(f"{largest.name} ({largest.pod.cpu} CPUs, {largest.pod.memory}) and all smaller ones fit.")


def _allocatable(node: Node) -> dict[str, Any]:
    return node.get("status", {}).get("allocatable") or {}


def _refusal(node: Node, step: StepSettings) -> str:
    """Why an empty node would not accept a step's pod; an empty text if it would."""
    name, labels, room = node["metadata"]["name"], node["metadata"].get("labels") or {}, _allocatable(node)
    if not step.node_selector.items() <= labels.items():
        return f"{name} lacks the labels of its node_selector"
    for taint in node.get("spec", {}).get("taints") or []:
        if taint["effect"] in _BLOCKING and not any(_tolerates(one, taint) for one in step.tolerations):
            return f"{name} has the taint {taint['key']}, which it does not tolerate"
    wanted = {step.gpu_type: str(step.gpus)} if step.gpus else {}
    for resource, quantity in {**wanted, "cpu": step.cpu, "memory": step.memory}.items():
        if _number(room.get(resource)) < _number(quantity):
            return f"{name} has {room.get(resource, 0)} {resource}, it asks for {quantity}"
    return ""


def _tolerates(toleration: Toleration, taint: dict[str, Any]) -> bool:
    if toleration.effect and toleration.effect != taint["effect"]:
        return False
    if toleration.key and toleration.key != taint["key"]:
        return False
    return toleration.operator == "Exists" or toleration.value == (taint.get("value") or "")


def _quotas(cluster: Cluster) -> CheckResult:
    namespace = cluster.plan.config.cluster.namespace
    quotas = cluster.list_objects(
        f"/api/v1/namespaces/{namespace}/resourcequotas", f"list resource quotas in namespace {namespace}"
    )
    waiting = ""
    for quota in quotas:
        status = quota.get("status", {})
        for resource, hard in (status.get("hard") or quota.get("spec", {}).get("hard") or {}).items():
            for name, setting, wanted in _largest(cluster, resource):
                used = (status.get("used") or {}).get(resource, "0")
                if _number(wanted) > _number(hard):
                    return failed(
                        f"{name} asks for {wanted} of {resource}, and the quota {quota['metadata']['name']} allows {hard} in all of "
                        f"namespace {namespace}: raise it, or lower {setting}."
                    )
                if _number(wanted) + _number(used) > _number(hard):
                    waiting = f"{name} will wait: {used} of {hard} {resource} (quota {quota['metadata']['name']}) are in use now."
    if waiting:
        return note(waiting)
    return ok(f"each step is within {len(quotas)} of them." if quotas else "there are none.")


def _largest(cluster: Cluster, resource: str) -> Iterator[tuple[str, str, str]]:
    """The largest request for a quota's resource, of a step or of all nodes of a TrainJob; nothing if none requests it.

    Yields:
        The name of the pods, the setting that determines them, and what they request together.
    """
    kind = resource.removeprefix("requests.").removeprefix("limits.")
    field = {"cpu": "cpu_limit" if resource.startswith("limits.") else "cpu", "memory": "memory"}.get(kind, "")
    requests = []
    for pods in cluster.plan.pods():
        if field or (pods.pod.gpus and pods.pod.gpu_type == kind):
            each = getattr(pods.pod, field) if field else str(pods.pod.gpus)
            name = pods.name if pods.count == 1 else f"{pods.count} times {pods.name}"
            requests.append((name, pods.setting, each if pods.count == 1 else str(_number(each) * pods.count)))
    if requests:
        yield max(requests, key=lambda request: _number(request[2]))


def _limits(cluster: Cluster) -> CheckResult:
    """Whether the namespace's limit ranges admit each step's container."""
    namespace = cluster.plan.config.cluster.namespace
    ranges = cluster.list_objects(
        f"/api/v1/namespaces/{namespace}/limitranges", f"list limit ranges in namespace {namespace}"
    )
    bounds = [
        (one["metadata"]["name"], limit.get("max") or {})
        for one in ranges
        for limit in one["spec"]["limits"]
        if limit["type"] in {"Container", "Pod"}
    ]
    for range_name, bound in bounds:
        for pods in cluster.plan.pods():
            for resource, wanted in (("cpu", pods.pod.cpu_limit), ("memory", pods.pod.memory)):
                if resource in bound and _number(wanted) > _number(bound[resource]):
                    return failed(
                        f"{pods.name} has a limit of {wanted} {resource}, and {range_name} allows {bound[resource]} in namespace {namespace}: "
                        f"raise it, or lower {pods.setting}."
                    )
    return ok(f"each step is within {len(bounds)} of them." if bounds else "there are none.")
