"""Whether a release can give a new model shares of the requests: the Gateway of the profile, and the right to write its route."""

from __future__ import annotations

from typing import Any

from mistere.serving.kserve.canary.route import (
    GROUP,
    ROUTES,
    VERSION,
    gateway_path,
    may_receive,
    route_name,
    route_path,
    share_of_candidate,
)
from pipelines.cli.doctor.groups.cluster import AbsentError, Cluster
from pipelines.cli.doctor.result import CheckResult, SkippedError, failed, note, ok


def shares(cluster: Cluster) -> CheckResult:
    """Check the Gateway, its listener and the right to write the route; without a Gateway say how a release proceeds.

    Raises:
        SkippedError: these credentials may not read the Gateway.
    """
    config = cluster.plan.config.deployment
    gateway, namespace = config.gateway, config.gateway.namespace or config.namespace
    if not gateway.name:
        return ok(
            "none: a release replaces the pods one by one after the new model's test; deployment.gateway.name gives it shares of the "
            "requests first."
        )
    if not cluster.serves(GROUP, VERSION, ROUTES):
        return failed(
            f"the Gateway API is not installed (no {ROUTES}.{GROUP} {VERSION}), and deployment.gateway needs it: install it with a "
            "controller, or set deployment.gateway.name to ''."
        )
    rights = cluster.may(
        cluster.plan.config.cluster.service_account,
        ("get", "watch", "create", "patch", "delete"),
        GROUP,
        ROUTES,
        config.namespace,
        (route_name(config.service),),
    )
    if rights.status != "ok":
        return failed(
            f"{rights.sentence.removesuffix('.')}; the overlay needs the component manifests/components/gateway."
        )
    try:
        live = cluster.get(gateway_path(config), f"read the Gateway {gateway.name} in namespace {namespace}")
    except AbsentError:
        return failed(f"there is no Gateway {gateway.name} in namespace {namespace}: correct deployment.gateway.")
    if found := _gateway_problem(live, gateway.listener, same_namespace=namespace == config.namespace):
        return failed(f"the Gateway {gateway.name} {found}.")
    try:
        route = cluster.get(route_path(config), f"read the route {route_name(config.service)}")
    except (AbsentError, SkippedError):
        route = {}
    if may_receive(route, config.service):
        share = share_of_candidate(route, config.service) or 0
        return note(
            f"the route {route_name(config.service)} gives the candidate {share} % of the requests, which a release or a canary by hand does: "
            "see the releases above. If there is none, somebody has edited the route, and `mistere promote` with the champion's version "
            "sets it right."
        )
    steps = ", ".join(f"{share} %" for share in config.canary.steps)
    return ok(f"by the Gateway {gateway.name}: {steps or 'by hand only (deployment.canary.steps is empty)'}.")


def _gateway_problem(live: dict[str, Any], listener: str, *, same_namespace: bool) -> str:
    """Why a Gateway does not take the route, continuing a sentence; empty if it does, as far as its own fields tell.

    Listeners admit the routes of their own namespace only unless they say otherwise (kubernetes-sigs/gateway-api,
    ``apis/v1/gateway_types.go``, ``allowedRoutes``).
    """
    for condition in live.get("status", {}).get("conditions") or []:
        if condition["type"] == "Programmed" and condition["status"] == "False":
            reason = " ".join(f"{condition.get('reason', '')}: {condition.get('message', '')}".split())
            return f"is not programmed ({reason.rstrip('.: ')}): see its controller's log"
    listeners = live.get("spec", {}).get("listeners") or []
    named = [one for one in listeners if listener in ("", one.get("name"))]
    if not named:
        names = ", ".join(str(one.get("name")) for one in listeners)
        return f"has no listener {listener} (it has: {names}): correct deployment.gateway.listener"
    sources = {(one.get("allowedRoutes") or {}).get("namespaces", {}).get("from", "Same") for one in named}
    if sources == {"Same"} and not same_namespace:
        return (
            "admits only routes of its own namespace: set allowedRoutes.namespaces of its listener to the namespace of the predictor (from: "
            "Selector), or to All"
        )
    return ""
