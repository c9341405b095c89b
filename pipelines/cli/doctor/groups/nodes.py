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
    asking = {name: step for name, step in plan.steps() if step.gpus}
    if not asking:
        return ok(f"the profile {plan.profile} asks for none.")
    ready = cluster.nodes
    for name, step in asking.items():
        with_gpus = [node for node in ready if _number(_allocatable(node).get(step.gpu_type))]
        if not with_gpus:
            steps = ", ".join(other for other, one in asking.items() if one.gpu_type == step.gpu_type)
            return failed(
                f"no node has any {step.gpu_type}, and the profile {plan.profile} asks for them in {steps}: add GPU nodes with their "
                "device plugin (an autoscaled pool of zero nodes does not count), or choose a profile for CPUs."
            )
        refusals = [_refusal(node, step) for node in with_gpus]
        if all(refusals):
            return failed(f"{name} fits on no node ({refusals[0]}): change cluster.steps.{name}, or add such a node.")
    return ok(f"{', '.join(asking)} fit.")


def _fits(cluster: Cluster) -> CheckResult:
    """Whether each step without GPUs fits on a node."""
    steps = [(name, step) for name, step in cluster.plan.steps() if not step.gpus]
    ready = cluster.nodes
    for name, step in steps:
        refusals = [_refusal(node, step) for node in ready]
        if all(refusals):
            return failed(f"{name} fits on no node ({refusals[0]}): change cluster.steps.{name}, or add such a node.")
    name, step = max(steps, key=lambda item: _number(item[1].memory))
    return ok(f"{name} ({step.cpu} CPUs, {step.memory}) and all smaller ones fit.")


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
            for name, wanted in _largest(cluster, resource):
                used = (status.get("used") or {}).get(resource, "0")
                if _number(wanted) > _number(hard):
                    return failed(
                        f"{name} asks for {wanted} of {resource}, and the quota {quota['metadata']['name']} allows {hard} in all of "
                        f"namespace {namespace}: raise it, or lower cluster.steps.{name}."
                    )
                if _number(wanted) + _number(used) > _number(hard):
                    waiting = f"{name} will wait: {used} of {hard} {resource} (quota {quota['metadata']['name']}) are in use now."
    if waiting:
        return note(waiting)
    return ok(f"each step is within {len(quotas)} of them." if quotas else "there are none.")


def _largest(cluster: Cluster, resource: str) -> Iterator[tuple[str, str]]:
    """The step with the largest request for a quota's resource, and that request; nothing if no step requests it."""
    kind = resource.removeprefix("requests.").removeprefix("limits.")
    field = {"cpu": "cpu_limit" if resource.startswith("limits.") else "cpu", "memory": "memory"}.get(kind, "")
    requests = [
        (name, getattr(step, field) if field else str(step.gpus))
        for name, step in cluster.plan.steps()
        if field or (step.gpus and step.gpu_type == kind)
    ]
    if requests:
        yield max(requests, key=lambda item: _number(item[1]))


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
        for name, step in cluster.plan.steps():
            for resource, wanted in (("cpu", step.cpu_limit), ("memory", step.memory)):
                if resource in bound and _number(wanted) > _number(bound[resource]):
                    return failed(
                        f"{name} has a limit of {wanted} {resource}, and {range_name} allows {bound[resource]} in namespace {namespace}: "
                        f"raise it, or lower cluster.steps.{name}."
                    )
    return ok(f"each step is within {len(bounds)} of them." if bounds else "there are none.")
