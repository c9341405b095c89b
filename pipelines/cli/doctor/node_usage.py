"""What the pods on each node request."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

from mistere.kubernetes.quantities import quantity

Amounts = Mapping[str, Decimal]

UNFINISHED: Final = "status.phase!=Succeeded,status.phase!=Failed"
"""Field selector of the pods whose requests count."""
_FINITE_OWNERS: Final = frozenset({"Workflow", "Job"})


def usage_by_node(pods: Iterable[Mapping[str, Any]]) -> dict[str, Amounts]:
    """The sum of the pods' requests, by the name of their node; pods without a node are ignored."""
    sums: dict[str, dict[str, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    for pod in pods:
        if node := pod["spec"].get("nodeName"):
            for resource, amount in requests_of(pod).items():
                sums[node][resource] += amount
    return dict(sums)


def is_lasting(pod: Mapping[str, Any]) -> bool:
    """Whether the pod runs until it is deleted, unlike those of workflows and jobs, which end by themselves."""
    owners = pod["metadata"].get("ownerReferences") or []
    return not any(owner["kind"] in _FINITE_OWNERS for owner in owners)


def requests_of(pod: Mapping[str, Any]) -> dict[str, Decimal]:
    """What the scheduler counts for a pod.

    The containers run together with the sidecars (init containers that restart always); an init container runs with the sidecars
    that are started before it. The larger sum counts, and the overhead of the pod's runtime.
    """
    spec = pod["spec"]
    running: dict[str, Decimal] = defaultdict(Decimal)
    largest: dict[str, Decimal] = defaultdict(Decimal)
    for container in spec.get("initContainers") or []:
        requests = _requests(container)
        if container.get("restartPolicy") == "Always":
            _add(running, requests)
            requests = {}
        for resource in {**running, **requests}:
            largest[resource] = max(largest[resource], running[resource] + requests.get(resource, Decimal()))
    for container in spec["containers"]:
        _add(running, _requests(container))
    total = {resource: max(running[resource], largest[resource]) for resource in {**running, **largest}}
    _add(total, {resource: quantity(value) for resource, value in (spec.get("overhead") or {}).items()})
    return total


def _requests(container: Mapping[str, Any]) -> dict[str, Decimal]:
    requests = (container.get("resources") or {}).get("requests") or {}
    return {resource: quantity(value) for resource, value in requests.items()}


def _add(total: dict[str, Decimal], amounts: Amounts) -> None:
    for resource, amount in amounts.items():
        total[resource] = total.get(resource, Decimal()) + amount
