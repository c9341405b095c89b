"""Room for the steps: nodes that are large enough and have the GPUs, and quotas and limits that let each step's pod in."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from mistere.config.base import Toleration
from mistere.config.cluster import StepSettings
from pipelines.cli.doctor.groups.cluster import Cluster
from pipelines.cli.doctor.result import Check, CheckResult, Subject, failed, note, ok

_BLOCKING = frozenset({"NoSchedule", "NoExecute"})


def subject(cluster: Cluster) -> Subject:
    """The checks of nodes and quotas."""
    return Subject(
        "Room",
        [
            Check("GPU nodes", lambda: _gpus(cluster)),
            Check("largest step", lambda: _fits(cluster)),
            Check("quotas", lambda: _quotas(cluster)),
            Check("limits", lambda: _limits(cluster)),
        ],
    )


def _number(quantity: str | int | None) -> Decimal:
    """A quantity as Kubernetes writes it, in units or bytes."""
    from kubernetes.utils import parse_quantity

    return Decimal(parse_quantity(quantity or 0))


def _gpus(cluster: Cluster) -> CheckResult:
    plan = cluster.plan
    asking = {name: step for name, step in plan.steps() if step.gpus}
    if not asking:
        return ok(f"the profile {plan.profile} asks for none.")
    ready = cluster.nodes
    for name, step in asking.items():
        having = [node for node in ready if _number((node.status.allocatable or {}).get(step.gpu_type))]
        if not having:
            steps = ", ".join(other for other, one in asking.items() if one.gpu_type == step.gpu_type)
            return failed(
                f"no node has any {step.gpu_type}, and the profile {plan.profile} asks for them in {steps}: add GPU nodes with their "
                "device plugin (a pool that grows from zero shows none until then), or choose a profile for CPUs."
            )
        refusals = [_refusal(node, step) for node in having]
        if all(refusals):
            return failed(f"{name} fits on no node ({refusals[0]}): mend cluster.steps.{name}, or add such a node.")
    return ok(f"{', '.join(asking)} fit.")


def _fits(cluster: Cluster) -> CheckResult:
    """Whether each step without GPUs has a node that is large enough for it."""
    steps = [(name, step) for name, step in cluster.plan.steps() if not step.gpus]
    ready = cluster.nodes
    for name, step in steps:
        refusals = [_refusal(node, step) for node in ready]
        if all(refusals):
            return failed(f"{name} fits on no node ({refusals[0]}): mend cluster.steps.{name}, or add such a node.")
    name, step = max(steps, key=lambda item: _number(item[1].memory))
    return ok(f"{name} ({step.cpu} CPUs, {step.memory}) and all smaller ones fit.")


def _refusal(node: Any, step: StepSettings) -> str:
    """Why a node would not take a step's pod, even if it were empty; nothing where it would."""
    name, labels, room = node.metadata.name, node.metadata.labels or {}, node.status.allocatable or {}
    if not step.node_selector.items() <= labels.items():
        return f"{name} lacks the labels of its node_selector"
    for taint in node.spec.taints or []:
        if taint.effect in _BLOCKING and not any(_bears(one, taint) for one in step.tolerations):
            return f"{name} has the taint {taint.key}, which it does not tolerate"
    wanted = {step.gpu_type: str(step.gpus)} if step.gpus else {}
    for resource, quantity in {**wanted, "cpu": step.cpu, "memory": step.memory}.items():
        if _number(room.get(resource)) < _number(quantity):
            return f"{name} has {room.get(resource, 0)} {resource}, it asks for {quantity}"
    return ""


def _bears(toleration: Toleration, taint: Any) -> bool:
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    return toleration.operator == "Exists" or toleration.value == (taint.value or "")


def _quotas(cluster: Cluster) -> CheckResult:
    namespace = cluster.plan.config.cluster.namespace
    quotas = cluster.ask(
        lambda **k: cluster.api("CoreV1Api").list_namespaced_resource_quota(namespace, **k),
        f"list resource quotas in namespace {namespace}",
    ).items
    waiting = ""
    for quota in quotas:
        for resource, hard in (quota.status.hard or quota.spec.hard or {}).items():
            for name, wanted in _largest(cluster, resource):
                used = (quota.status.used or {}).get(resource, "0")
                if _number(wanted) > _number(hard):
                    return failed(
                        f"{name} asks for {wanted} of {resource}, and the quota {quota.metadata.name} allows {hard} in all of "
                        f"namespace {namespace}: raise it, or lower cluster.steps.{name}."
                    )
                if _number(wanted) + _number(used) > _number(hard):
                    waiting = (
                        f"{name} will wait: {used} of {hard} {resource} (quota {quota.metadata.name}) are in use now."
                    )
    if waiting:
        return note(waiting)
    return ok(f"each step is within {len(quotas)} of them." if quotas else "there is none.")


def _largest(cluster: Cluster, resource: str) -> Iterator[tuple[str, str]]:
    """The step that asks most of what a quota counts, and how much; nothing for what pods do not ask for."""
    kind = resource.removeprefix("requests.").removeprefix("limits.")
    field = {"cpu": "cpu_limit" if resource.startswith("limits.") else "cpu", "memory": "memory"}.get(kind, "")
    asked = [
        (name, getattr(step, field) if field else str(step.gpus))
        for name, step in cluster.plan.steps()
        if field or (step.gpus and step.gpu_type == kind)
    ]
    if asked:
        yield max(asked, key=lambda item: _number(item[1]))


def _limits(cluster: Cluster) -> CheckResult:
    """The largest container that the namespace lets in."""
    namespace = cluster.plan.config.cluster.namespace
    ranges = cluster.ask(
        lambda **k: cluster.api("CoreV1Api").list_namespaced_limit_range(namespace, **k),
        f"list limit ranges in namespace {namespace}",
    ).items
    bounds = [
        (one.metadata.name, limit.max or {})
        for one in ranges
        for limit in one.spec.limits
        if limit.type in {"Container", "Pod"}
    ]
    for called, bound in bounds:
        for name, step in cluster.plan.steps():
            for resource, wanted in (("cpu", step.cpu_limit), ("memory", step.memory)):
                if resource in bound and _number(wanted) > _number(bound[resource]):
                    return failed(
                        f"{name} has a limit of {wanted} {resource}, and {called} allows {bound[resource]} in namespace {namespace}: "
                        f"raise it, or lower cluster.steps.{name}."
                    )
    return ok(f"each step is within {len(bounds)} of them." if bounds else "there is none.")
