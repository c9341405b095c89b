"""A Gateway's controller: it takes HTTPRoutes over, and says in their status whether their backends exist.

The conditions, their reasons and ``observedGeneration`` are those of kubernetes-sigs/gateway-api ``apis/v1/shared_types.go`` (Accepted,
ResolvedRefs, NoMatchingParent, BackendNotFound).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from tests.stand_ins.kubernetes_api import KubernetesApi

CONTROLLER = "example.com/gateway-controller"


class Gateway:
    """Reconciles every HTTPRoute that names it.

    Attributes:
        name: of the Gateway.
        refuses: a reason for which it accepts no route; empty if it does.
        weights: the backends of the route that it has taken over last, with their weights.
        seen: every state of ``weights`` so far.
        on_change: called with the weights before the status says so.
    """

    def __init__(self, cluster: KubernetesApi, name: str = "public") -> None:
        self.cluster, self.name, self.refuses = cluster, name, ""
        self.weights: dict[str, int] = {}
        self.seen: list[dict[str, int]] = []
        self.on_change: Callable[[dict[str, int]], object] = lambda _: None
        self._failures: list[BaseException] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it.

        Raises:
            BaseException: what has ended it before, which would otherwise show only as a route that nobody takes.
        """
        self._over.set()
        self._thread.join()
        if self._failures:
            raise self._failures[0]

    def _loop(self) -> None:
        try:
            self._reconcile()
        except BaseException as error:
            self._failures.append(error)

    def _reconcile(self) -> None:
        while not self._over.wait(0.01):
            for route in self.cluster.all("httproutes"):
                if any(parent["name"] == self.name for parent in route["spec"]["parentRefs"]):
                    self._take(route)

    def _take(self, route: dict[str, Any]) -> None:
        generation = route["metadata"]["generation"]
        backends = [backend for rule in route["spec"]["rules"] for backend in rule["backendRefs"]]
        missing = [one["name"] for one in backends if self.cluster.find("deployments", one["name"]) is None]
        accepted = {"status": "False", "reason": self.refuses, "message": ""}
        if not self.refuses:
            accepted = {"status": "True", "reason": "Accepted", "message": ""}
            weights = {one["name"]: one["weight"] for one in backends}
            if weights != self.weights:
                self.on_change(weights)
                self.weights = weights
                self.seen.append(weights)
        found = {"status": "True", "reason": "ResolvedRefs", "message": ""}
        if missing:
            found = {"status": "False", "reason": "BackendNotFound", "message": f"Service {missing[0]} not found"}
        conditions = [
            {"type": kind, **content, "observedGeneration": generation, "lastTransitionTime": "2026-01-01T00:00:00Z"}
            for kind, content in (("Accepted", accepted), ("ResolvedRefs", found))
        ]
        parent = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": self.name}
        status = {"parents": [{"parentRef": parent, "controllerName": CONTROLLER, "conditions": conditions}]}
        if route.get("status") != status:
            self.cluster.write_status("httproutes", {**route, "status": status})
