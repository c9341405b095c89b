"""A model of NetworkPolicies: a selected pod is denied all traffic that no policy allows."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Any

Policy = dict[str, Any]


@dataclass(frozen=True)
class Endpoint:
    """A pod, or an address outside the cluster.

    Attributes:
        namespace: of a pod; empty for an address.
        labels: of a pod.
        address: outside the cluster.
    """

    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    address: str = ""


def reaches(policies: list[Policy], source: Endpoint, target: Endpoint, port: int, protocol: str = "TCP") -> bool:
    """Return whether egress at the source and ingress at the target allow a connection."""
    return _allowed(policies, source, target, "Egress", port, protocol) and _allowed(
        policies, target, source, "Ingress", port, protocol
    )


def _allowed(policies: list[Policy], pod: Endpoint, peer: Endpoint, direction: str, port: int, protocol: str) -> bool:
    selecting = [
        policy["spec"]
        for policy in policies
        if policy["metadata"]["namespace"] == pod.namespace
        and direction in policy["spec"]["policyTypes"]
        and _selects(policy["spec"]["podSelector"], pod.labels)
    ]
    side = "from" if direction == "Ingress" else "to"
    return not selecting or any(
        any(_is_peer(rule_peer, pod.namespace, peer) for rule_peer in rule[side])
        and ("ports" not in rule or {"port": port, "protocol": protocol} in rule["ports"])
        for spec in selecting
        for rule in spec.get(direction.lower(), [])
    )


def _is_peer(rule: dict[str, Any], namespace: str, peer: Endpoint) -> bool:
    if "ipBlock" in rule:
        block = rule["ipBlock"]
        inside = [
            bool(peer.address) and ipaddress.ip_address(peer.address) in ipaddress.ip_network(network)
            for network in (block["cidr"], *block.get("except", []))
        ]
        return inside[0] and not any(inside[1:])
    if peer.address:
        return False
    if "namespaceSelector" in rule:
        in_namespace = _selects(rule["namespaceSelector"], {"kubernetes.io/metadata.name": peer.namespace})
    else:
        in_namespace = peer.namespace == namespace
    return in_namespace and _selects(rule.get("podSelector", {}), peer.labels)


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for expression in selector.get("matchExpressions", []):
        if expression["key"] not in labels:
            return False
        if expression["operator"] == "In" and labels[expression["key"]] not in expression["values"]:
            return False
        assert expression["operator"] in ("In", "Exists")
    return True
