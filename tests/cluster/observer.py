"""What somebody who looks at the cluster all the time sees of a deployment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from tests.cluster.conftest import Cluster


def settled_pods(cluster: Cluster, count: int) -> list[dict[str, Any]]:
    """The pods, once there are so many; those of a candidate take a moment to go."""
    deadline = time.monotonic() + 5
    while len(pods := cluster.api.all("pods")) != count and time.monotonic() < deadline:
        time.sleep(0.02)
    return pods


def is_gone(cluster: Cluster, name: str) -> bool:
    """Whether a service goes; its finalizer takes a moment."""
    deadline = time.monotonic() + 5
    while cluster.api.find("inferenceservices", name) is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    return cluster.api.find("inferenceservices", name) is None


def watch_ready(cluster: Cluster) -> Callable[[], set[str]]:
    return _seen(cluster, lambda live: live["status"]["conditions"][0]["status"], set)


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
    """What an observer saw of the service's status from now until it is asked."""
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
