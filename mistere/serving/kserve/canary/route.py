"""The HTTPRoute (Gateway API) that splits the requests between the deployed version and its candidate.

KServe makes a Service for each InferenceService, ``NAME-predictor``, which listens on port 80. The route has one rule with these two
as weighted backends. Facts on its fields are those of kubernetes-sigs/gateway-api, ``apis/v1/httproute_types.go`` and
``apis/v1/shared_types.go``: ``group`` and ``kind`` of a parent are a Gateway's by default, those of a backend a Service's; weights are
relative, and 0 means no request; a backend that does not exist answers its share with 500, and the route reports
``ResolvedRefs=False``. So the candidate stands in the route only while it exists.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

from mistere.common.errors import MistereError
from mistere.config.deployment import DeploymentConfig
from mistere.kubernetes.api import MODIFIED, KubernetesApi, KubernetesError
from mistere.serving.kserve.inference_service import POD_LABELS, candidate_name
from mistere.serving.kserve.lease import RenewLease
from mistere.serving.kserve.live_service import is_terminating, service_path
from mistere.serving.kserve.revision import WATCH_SECONDS

GROUP: Final = "gateway.networking.k8s.io"
VERSION: Final = "v1"
ROUTES: Final = "httproutes"
GATEWAYS: Final = "gateways"
_SERVICE_PORT: Final = 80
_ROUTE: Final = "-route"
_ACCEPTED_SECONDS: Final = 60.0
_RECEIVES: Final = "mistere/candidate-receives"
"""Annotation of a route from which a Gateway may have learnt a share of the candidate, until it has confirmed that there is none."""
SETTLING_SECONDS: Final = 5.0
"""Time in which the proxies of a Gateway apply a route that its controller has accepted; the status does not tell."""
_ATTEMPTS: Final = 5
"""How often a share is written where something else changes the route at the same time."""


def route_name(service: str) -> str:
    """The name of a service's route. KServe names its own routes ``NAME`` and ``NAME-predictor``."""
    return f"{service}{_ROUTE}"


def route_path(config: DeploymentConfig) -> str:
    """The API path of the route."""
    return f"/apis/{GROUP}/{VERSION}/namespaces/{config.namespace}/{ROUTES}/{route_name(config.service)}"


def gateway_path(config: DeploymentConfig) -> str:
    """The API path of the Gateway."""
    namespace = config.gateway.namespace or config.namespace
    return f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{GATEWAYS}/{config.gateway.name}"


def http_route(config: DeploymentConfig, share: int | None, *, receives: bool = False) -> dict[str, Any]:
    """Render the route.

    Args:
        config: the ``deployment`` section.
        share: percentage of the requests for the candidate; None while there is none.
        receives: whether a Gateway may still send the candidate requests, whatever the share.
    """
    gateway = config.gateway
    parent = {"name": gateway.name, "namespace": gateway.namespace or config.namespace}
    if gateway.listener:
        parent["sectionName"] = gateway.listener
    limit = config.request_timeout
    backends = [_backend(config.service, 100 if share is None else 100 - share)]
    if share is not None:
        backends.append(_backend(candidate_name(config.service), share))
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "HTTPRoute",
        "metadata": {
            "name": route_name(config.service),
            "namespace": config.namespace,
            "labels": dict(POD_LABELS),
            **({"annotations": {_RECEIVES: "true"}} if receives or share else {}),
        },
        "spec": {
            "parentRefs": [parent],
            **({"hostnames": list(gateway.hostnames)} if gateway.hostnames else {}),
            # Only if it is set: a controller may refuse a route with this field, as GKE's does (kserve/kserve issue 5311).
            "rules": [{"backendRefs": backends, **({"timeouts": {"request": f"{limit}s"}} if limit else {})}],
        },
    }


def _backend(service: str, weight: int) -> dict[str, Any]:
    return {"name": f"{service}-predictor", "port": _SERVICE_PORT, "weight": weight}


def share_of_candidate(route: dict[str, Any] | None, service: str) -> int | None:
    """The percentage that a route gives the candidate; None if it does not name it, or if there is no route."""
    name = f"{candidate_name(service)}-predictor"
    rules = (route or {}).get("spec", {}).get("rules") or []
    weights = {
        backend.get("name"): int(backend.get("weight", 1))
        for rule in rules
        for backend in rule.get("backendRefs") or []
    }
    total = sum(weights.values())
    return round(100 * weights[name] / total) if name in weights and total else weights.get(name)


def may_receive(route: dict[str, Any] | None, service: str) -> bool:
    """Whether a Gateway may send the candidate requests: the route says so, or it did and the Gateway has not confirmed that it no
    longer does.
    """
    annotations = (route or {}).get("metadata", {}).get("annotations") or {}
    return bool(share_of_candidate(route, service)) or _RECEIVES in annotations


def problem(route: dict[str, Any], gateway: str) -> str:
    """Why a Gateway does not pass requests on as the route says; empty if it does.

    A condition says of which generation of the route it is (``observedGeneration``). Other parents may be of other controllers.
    """
    generation = route["metadata"].get("generation", 0)
    parents = route.get("status", {}).get("parents") or []
    found = f"no controller has taken it over: is there a Gateway {gateway}, and does its class have a controller?"
    for parent in parents:
        if parent.get("parentRef", {}).get("name") != gateway:
            continue
        conditions = {one["type"]: one for one in parent.get("conditions") or []}
        found = ""
        for kind in ("Accepted", "ResolvedRefs"):
            condition = conditions.get(kind, {})
            if condition.get("observedGeneration", generation) < generation or not condition:
                found = "its controller has not seen the change yet"
            elif condition.get("status") != "True":
                reason = " ".join(f"{condition.get('reason', '')}: {condition.get('message', '')}".split())
                found = f"{kind} is {condition.get('status')} ({reason[:200].rstrip('.')})"
                break
        if not found:
            return ""
    return found


def _over(live: dict[str, Any] | None, route: dict[str, Any]) -> dict[str, Any]:
    """A route that replaces only this state of it."""
    if live is None:
        return route
    return {**route, "metadata": {**route["metadata"], "resourceVersion": live["metadata"]["resourceVersion"]}}


class NoGatewayApiError(KubernetesError):
    """The cluster does not serve the Gateway API."""


@dataclass(frozen=True)
class Route:
    """The route of a service on a cluster.

    Attributes:
        api: client of the cluster.
        config: the ``deployment`` section.
    """

    api: KubernetesApi
    config: DeploymentConfig

    @property
    def configured(self) -> bool:
        """Whether the profile names a Gateway."""
        return bool(self.config.gateway.name) and self.config.mode == "standard"

    def share(self) -> int | None:
        """The percentage that the candidate gets now; None if it stands in no route.

        Raises:
            MistereError: the cluster has no Gateway API.
        """
        return share_of_candidate(self._live(), self.config.service)

    def candidate_may_receive(self) -> bool:
        """Whether the Gateway may send the candidate requests now (:func:`may_receive`).

        Raises:
            MistereError: the cluster has no Gateway API.
        """
        return may_receive(self._live(), self.config.service)

    def check(self) -> None:
        """Check, without changing anything, that the cluster would take the route.

        Raises:
            MistereError: it has no Gateway API, or these credentials may not write the route.
        """
        self._live()
        self.api.apply(route_path(self.config), http_route(self.config, None), dry_run=True)

    def _live(self) -> dict[str, Any] | None:
        try:
            return self.api.get(route_path(self.config))
        except KubernetesError as error:
            if error.code == 404:
                raise NoGatewayApiError(_MISSING, 404) from error
            raise

    def split(self, share: int | None, renew_lease: RenewLease, *, force: bool = False) -> None:
        """Give the candidate a share of the requests, and wait until the Gateway does so.

        Args:
            share: a percentage; None to take the candidate out of the route.
            renew_lease: records the share before the route has it, and is called during the wait.
            force: take over fields that other managers own.

        Raises:
            MistereError: the Gateway does not take the route.
        """
        path = route_path(self.config)
        received = self._change(path, share, renew_lease) if share is not None else self.candidate_may_receive()
        if share is None:
            self.api.apply(path, http_route(self.config, None, receives=received), force=force)
        self._wait_until_taken(path, renew_lease)
        if received or share:
            renew_lease()
            time.sleep(SETTLING_SECONDS)
        if received and not share:  # only now is it known, to whoever goes on after this process, too
            self.api.apply(path, http_route(self.config, share), force=force)

    def _change(self, path: str, share: int, renew_lease: RenewLease) -> bool:
        """Give the candidate a share, unless another process takes the release over.

        A process that is suspended after it has recorded the share would otherwise give it when it wakes, although another one has taken
        the release back. So the route must still be the one that was read before the lease was renewed: whoever takes a release back
        changes it.

        Returns:
            Whether the candidate may have received requests before.
        """
        for attempt in range(_ATTEMPTS, 0, -1):
            live = self._live()
            received = may_receive(live, self.config.service)
            renew_lease(share)
            try:
                self.api.apply(path, _over(live, http_route(self.config, share, receives=received)))
            except KubernetesError as error:
                if (
                    attempt == 1 or MODIFIED not in error.reason
                ):  # the Gateway's controller writes the status at any time
                    raise
            else:
                return received
        raise AssertionError("unreachable")

    def _wait_until_taken(self, path: str, renew_lease: RenewLease) -> None:
        collection, _, name = path.rpartition("/")
        deadline = time.monotonic() + _ACCEPTED_SECONDS
        while True:
            live = self.api.get(path) or {"metadata": {}}
            if not (found := problem(live, self.config.gateway.name)):
                return
            if time.monotonic() > deadline:
                raise MistereError(f"the Gateway does not take the route {name}: {found}.")
            renew_lease()
            version = str(live["metadata"].get("resourceVersion", ""))
            left = max(0.0, deadline - time.monotonic()) + 0.1
            self.api.wait_for_change(collection, version, min(WATCH_SECONDS, left), fields=f"metadata.name={name}")

    def restore(self, renew_lease: RenewLease) -> None:
        """Give the deployed version all requests again, also if somebody has deleted its route; without a service, delete the route.

        A candidate that may still get requests must not be deleted before the Gateway has confirmed that it gets none, also if an earlier
        attempt has changed the route already. One that never had a share may, so that a Gateway that takes no route blocks nothing.

        Raises:
            MistereError: the Gateway does not take the route.
        """
        try:
            live = self._live()
        except NoGatewayApiError:
            return
        service = self.api.get(service_path(self.config, self.config.service))
        if service is None or is_terminating(service):
            self.delete()  # a Gateway takes no route to a service that is gone, so it would never confirm one
        elif live is None:
            self.api.apply(route_path(self.config), http_route(self.config, None), force=True)
        elif may_receive(live, self.config.service):
            self.split(None, renew_lease, force=True)
        elif share_of_candidate(live, self.config.service) is not None:
            self.api.apply(route_path(self.config), http_route(self.config, None), force=True)

    def delete(self) -> None:
        """Delete the route; nothing happens if there is none."""
        self.api.delete(route_path(self.config))


_MISSING: Final = (
    "the cluster does not serve the Gateway API (no httproutes.gateway.networking.k8s.io), and deployment.gateway names a Gateway: "
    "install it with a controller, or set deployment.gateway.name to '' for a roll-out pod by pod."
)
