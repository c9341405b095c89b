"""Whether NetworkPolicies let a pod open a connection, as far as the API shows it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

_NAME_LABEL: Final = "kubernetes.io/metadata.name"
"""The label with its name that Kubernetes sets on every namespace."""

Policy = Mapping[str, Any]


@dataclass(frozen=True)
class Target:
    """What a pod connects to.

    Attributes:
        port: the port at which the target listens.
        protocol: ``TCP`` or ``UDP``.
        address: of a target outside the cluster, or with the network of a node; empty for pods.
        namespace: of the target's pods.
        labels: of the target's pods.
    """

    port: int
    protocol: str = "TCP"
    address: str = ""
    namespace: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


def admits(policies: Iterable[Policy], namespace: str, labels: Mapping[str, str], target: Target) -> bool:
    """Whether a pod with these labels may connect to the target; what cannot be known counts as admitted.

    Args:
        policies: all NetworkPolicies of the pod's namespace.
        namespace: of the pod.
        labels: of the pod.
        target: what it connects to.
    """
    selecting = [
        policy["spec"]
        for policy in policies
        if _limits_egress(policy["spec"]) and _selects(policy["spec"].get("podSelector") or {}, labels)
    ]
    return not selecting or any(
        _on_port(rule.get("ports") or [], target) and _to_peer(rule.get("to") or [], namespace, target)
        for spec in selecting
        for rule in spec.get("egress") or []
    )


def _limits_egress(spec: Mapping[str, Any]) -> bool:
    types = spec.get("policyTypes")
    return "Egress" in types if types else "egress" in spec


def _on_port(ports: Iterable[Mapping[str, Any]], target: Target) -> bool:
    ports = list(ports)
    return not ports or any(
        port.get("protocol", "TCP") == target.protocol and _includes(port, target.port) for port in ports
    )


def _includes(port: Mapping[str, Any], number: int) -> bool:
    first = port.get("port")
    if not isinstance(first, int):
        return True  # all ports, or the name of one
    return first <= number <= int(port.get("endPort", first))


def _to_peer(peers: Iterable[Mapping[str, Any]], namespace: str, target: Target) -> bool:
    peers = list(peers)
    return not peers or any(_is_peer(peer, namespace, target) for peer in peers)


def _is_peer(peer: Mapping[str, Any], namespace: str, target: Target) -> bool:
    if "ipBlock" in peer:
        block = peer["ipBlock"]
        if not target.address:
            return True  # the pods' addresses are not known here
        return _within(target.address, block["cidr"]) and not any(
            _within(target.address, network) for network in block.get("except") or []
        )
    if target.address:
        return False
    selector = peer.get("namespaceSelector")
    if selector is None:  # pods of the policy's own namespace
        in_namespace = target.namespace == namespace
    else:
        in_namespace = _may_select(selector, {_NAME_LABEL: target.namespace})
    return in_namespace and _may_select(peer.get("podSelector"), target.labels)


def _within(address: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network, strict=False)
    except (ValueError, TypeError):  # an address of the other family is in no network of this one
        return False


def _may_select(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Whether a selector may select an object of which only some labels are known."""
    known = {
        "matchLabels": {key: value for key, value in _labels(selector).items() if key in labels},
        "matchExpressions": [one for one in _expressions(selector) if one["key"] in labels],
    }
    return _selects(known, labels)


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    if any(labels.get(key) != value for key, value in _labels(selector).items()):
        return False
    return all(_holds(expression, labels) for expression in _expressions(selector))


def _holds(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, values = expression["key"], expression.get("values") or []
    match expression["operator"]:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case _:
            return key not in labels


def _labels(selector: Mapping[str, Any] | None) -> Mapping[str, str]:
    return (selector or {}).get("matchLabels") or {}


def _expressions(selector: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    return (selector or {}).get("matchExpressions") or []
