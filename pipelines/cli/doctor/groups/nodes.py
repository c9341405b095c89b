"""Capacity for the run: nodes with enough free CPU, memory and GPUs, and quotas and limits that admit each pod.

The scheduler compares a pod's requests with what a node can allocate less the requests of the pods there, whatever they use.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from mistere.config.base import Toleration
from mistere.config.cluster import StepSettings
from mistere.kubernetes.quantities import GIB as _GIB
from mistere.kubernetes.quantities import quantity as _number
from pipelines.cli.doctor.groups.cluster import Cluster
from pipelines.cli.doctor.node_usage import Amounts, is_lasting, usage_by_node
from pipelines.cli.doctor.plan import PlannedPods
from pipelines.cli.doctor.result import Check, CheckGroup, CheckResult, SkippedError, failed, note, ok

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


@dataclass(frozen=True)
class _Requested:
    """What other pods request on each node, by the node's name.

    Attributes:
        lasting: pods that run until they are deleted.
        all: also those of workflows and jobs, which end by themselves.
        known: whether the pods could be listed.
    """

    lasting: Mapping[str, Amounts]
    all: Mapping[str, Amounts]
    known: bool = True


def _requested(cluster: Cluster) -> _Requested:
    try:
        pods = cluster.unfinished_pods
    except SkippedError:
        return _Requested({}, {}, known=False)
    return _Requested(usage_by_node(pod for pod in pods if is_lasting(pod)), usage_by_node(pods))


def _planned(cluster: Cluster, *, gpus: bool) -> list[PlannedPods]:
    """The pods of steps, training nodes and predictor that request GPUs, or those that do not."""
    plan = cluster.plan
    return [pods for pods in (*plan.pods(), *plan.predictors()) if bool(pods.pod.gpus) is gpus]


def _gpus(cluster: Cluster) -> CheckResult:
    plan = cluster.plan
    asking = _planned(cluster, gpus=True)
    if not asking:
        return ok(f"the profile {plan.profile} asks for none.")
    ready = cluster.nodes
    for pods in asking:
        kind = pods.pod.gpu_type
        if not any(_number(_allocatable(node).get(kind)) for node in ready):
            names = ", ".join(other.name for other in asking if other.pod.gpu_type == kind)
            return failed(
                f"no node has any {kind}, and the profile {plan.profile} asks for them in {names}: add GPU nodes with their "
                "device plugin (an autoscaled pool of zero nodes does not count), or choose a profile for CPUs."
            )
    return _compare(cluster, asking) or ok(f"{', '.join(pods.name for pods in asking)} fit.")


def _fits(cluster: Cluster) -> CheckResult:
    """Whether each pod without GPUs fits on a node."""
    planned = _planned(cluster, gpus=False)
    if trouble := _compare(cluster, planned):
        return trouble
    largest = max(planned, key=lambda pods: (_number(pods.pod.memory), _number(pods.pod.cpu)))
    beside = (
        "" if _requested(cluster).known else " an empty node; what runs there is unknown, since pods may not be listed"
    )
    return ok(f"{largest.name} ({largest.pod.cpu} CPUs, {largest.pod.memory}) and all smaller ones fit{beside}.")


def _compare(cluster: Cluster, planned: Iterable[PlannedPods]) -> CheckResult | None:
    """A failure if pods fit on no node beside what stays there, a note if they have to wait; None if all fit now."""
    ready, requested, waiting = cluster.nodes, _requested(cluster), None
    for pods in planned:
        kind = pods.pod.gpu_type if pods.pod.gpus else ""
        candidates = [node for node in ready if not kind or _number(_allocatable(node).get(kind))]
        refusals = [_refusal(node, pods.pod, requested.lasting) for node in candidates]
        if all(refusals):
            return failed(f"{pods.name} fits on no node ({refusals[0]}): change {pods.setting}, or add such a node.")
        refusals = [_refusal(node, pods.pod, requested.all) for node in candidates]
        if all(refusals):
            waiting = waiting or note(f"{pods.name} will wait until running jobs end ({refusals[0]}).")
    return waiting


def _allocatable(node: Node) -> dict[str, Any]:
    return node.get("status", {}).get("allocatable") or {}


def _refusal(node: Node, step: StepSettings, requested: Mapping[str, Amounts]) -> str:
    """Why a node does not accept a step's pod beside the pods there; an empty text if it does."""
    name, labels, room = node["metadata"]["name"], node["metadata"].get("labels") or {}, _allocatable(node)
    if not step.node_selector.items() <= labels.items():
        return f"{name} lacks the labels of its node_selector"
    for taint in node.get("spec", {}).get("taints") or []:
        if taint["effect"] in _BLOCKING and not any(_tolerates(one, taint) for one in step.tolerations):
            return f"{name} has the taint {taint['key']}, which it does not tolerate"
    wanted = {step.gpu_type: str(step.gpus)} if step.gpus else {}
    for resource, quantity in {**wanted, "cpu": step.cpu, "memory": step.memory}.items():
        taken = requested.get(name, {}).get(resource, Decimal())
        if _number(room.get(resource)) - taken < _number(quantity):
            of_others = f", of which other pods request {_shown(resource, taken)}" if taken else ""
            return f"{name} has {room.get(resource, 0)} {resource}{of_others}, it asks for {quantity}"
    return ""


def _shown(resource: str, amount: Decimal) -> str:
    return f"{amount / _GIB:.1f}Gi" if resource == "memory" else f"{amount.normalize():f}"


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
