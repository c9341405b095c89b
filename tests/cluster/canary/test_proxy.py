"""A real proxy that obeys the HTTPRoute: which version answers is counted in requests, and none is lost on the way."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from mistere.artifacts.object_store import LocalStore
from mistere.config.canary import CanaryConfig
from mistere.serving import protocol
from mistere.serving.kserve.canary import route as route_module
from tests.cluster import test_release_on_cluster as released
from tests.cluster.canary.conftest import CANDIDATE
from tests.cluster.canary.conftest import CONFIG as AT_ONCE
from tests.cluster.canary.traffic import Traffic
from tests.cluster.conftest import Cluster
from tests.stand_ins.gateway import Gateway
from tests.stand_ins.nginx_gateway import NginxGateway, nginx_program, ready_pods
from tests.stand_ins.predictor import LightPredictor

CONFIG = AT_ONCE.model_copy(update={"canary": CanaryConfig(window_seconds=0.8, min_requests=20)})
CLIENTS = 4


class Clients:
    """People who ask without a pause; counts the answers by version, for each state of the route."""

    def __init__(self, url: str) -> None:
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self._url, self._over = f"{url}/v2/models/mistere/infer", threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        with httpx.Client(timeout=20, headers={"Connection": "close"}) as client:  # a reload closes idle connections
            while not self._over.wait(0.002):
                try:
                    response = client.post(self._url, json={"inputs": []})
                    response.raise_for_status()
                    self.answers[response.json()["parameters"][protocol.BUNDLE_DIGEST]] += 1
                except httpx.HTTPError as error:
                    self.failures.append(f"{type(error).__name__}: {error}")

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def nginx(
    make_cluster: Callable[..., Cluster], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Cluster, Gateway, NginxGateway, Traffic]]:
    program = nginx_program()
    monkeypatch.setattr(route_module, "SETTLING_SECONDS", 0.3)
    made: list[Cluster] = []
    traffic = Traffic()

    def start(container: Any, address: str) -> LightPredictor:
        return LightPredictor(container, address, made[0].answers, traffic.metrics)

    made.append(make_cluster(start))
    folder = tmp_path / "nginx"
    folder.mkdir()
    proxy, gateway = NginxGateway(program, folder, ready_pods(made[0].api)), Gateway(made[0].api)
    gateway.on_change = proxy.apply
    yield made[0], gateway, proxy, traffic
    gateway.stop()
    proxy.stop()


@pytest.mark.long
def test_the_split_in_counts(
    nginx: tuple[Cluster, Gateway, NginxGateway, Traffic], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through all shares of a release: each gets about as many requests as it says, and no request fails."""
    cluster, gateway, proxy, _ = nginx
    store = LocalStore(cluster.folder / "store")
    monkeypatch.setattr(released, "CONFIG", CONFIG)
    first, second = cluster.bundle("a"), cluster.bundle("b")
    released.go(cluster, store, first)
    counts: dict[int, Counter[str]] = {}
    clients = Clients(proxy.url)

    def count(share: int, before: Counter[str]) -> None:
        counts[share] = Counter(clients.answers)
        counts[share].subtract(before)

    state: list[tuple[int, Counter[str]]] = []

    def apply(weights: dict[str, int]) -> None:
        if state:
            count(*state.pop())
        proxy.apply(weights)
        if CANDIDATE in weights:
            state.append((weights[CANDIDATE], Counter(clients.answers)))

    gateway.on_change = apply
    try:
        released.go(cluster, store, second)
    finally:
        clients.stop()
    assert clients.failures == []
    assert counts.keys() == {0, 10, 50, 100} and cluster.served() == second.manifest.digest
    for share, answers in counts.items():
        total = answers.total()
        got = answers[second.manifest.digest] / max(total, 1)
        print(f"{share} %: {answers[second.manifest.digest]} of {total} requests")
        assert total > 50 or share == 0
        spread = 4 * (share / 100 * (1 - share / 100) / max(total, 1)) ** 0.5  # 4 standard errors, and those in flight
        assert abs(got - share / 100) <= spread + CLIENTS / max(total, 1), (share, got, total)
