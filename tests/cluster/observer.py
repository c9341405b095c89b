"""Observers of a deployment: wait for a state of the cluster, or record every state of a service."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from tests.cluster.conftest import Cluster

WAIT_SECONDS = 180
"""A limit for a machine under load; a wait ends as soon as its condition holds."""


def settled_pods(cluster: Cluster, count: int) -> list[dict[str, Any]]:
    """Wait until the cluster has ``count`` pods; a candidate's pods are deleted with a delay."""
    deadline = time.monotonic() + WAIT_SECONDS
    while len(pods := cluster.api.all("pods")) != count and time.monotonic() < deadline:
        time.sleep(0.02)
    return pods


def is_gone(cluster: Cluster, name: str) -> bool:
    """Wait for a service to be deleted; its finalizer runs with a delay."""
    deadline = time.monotonic() + WAIT_SECONDS
    while cluster.api.find("inferenceservices", name) is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    return cluster.api.find("inferenceservices", name) is None


def watch_ready(cluster: Cluster) -> Callable[[], set[str]]:
    def ready(live: dict[str, Any]) -> str:
        return next(
            str(condition["status"]) for condition in live["status"]["conditions"] if condition["type"] == "Ready"
        )

    return _seen(cluster, ready, set)


def watch_shares(cluster: Cluster) -> Callable[[], list[int]]:
    def distinct(values: list[int]) -> list[int]:
        return [value for i, value in enumerate(values) if not i or value != values[i - 1]]

    def share(live: dict[str, Any]) -> int:
        targets = live["status"]["components"]["predictor"]["traffic"]
        return next((target["percent"] for target in targets if target["latestRevision"]), 0)

    return _seen(cluster, share, distinct)


def _seen(
    cluster: Cluster, of: Callable[[dict[str, Any]], Any], sum_up: Callable[[list[Any]], Any]
) -> Callable[[], Any]:
    """Record the service's status from now until the returned function is called."""
    values: list[Any] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.005):
            live = cluster.api.find("inferenceservices", "mistere")
            if live is not None and live.get("status"):
                values.append(of(live))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()

    def end() -> Any:
        over.set()
        thread.join()
        return sum_up(values)

    return end
