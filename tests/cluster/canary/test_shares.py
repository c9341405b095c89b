"""A canary in Standard mode: shares of the live requests through a Gateway, checks between them, and the way back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import ModelBundle
from mistere.artifacts.object_store import LocalStore
from mistere.common.errors import MistereError
from mistere.config.canary import CanaryConfig, GatewayConfig
from mistere.kubernetes.api import connect
from mistere.registry.release.canary import (
    end_canary,
)
from mistere.registry.release.champion import read_champion
from mistere.registry.release.promotion_log import read_log
from mistere.registry.release.recovery import recover
from mistere.serving import protocol
from mistere.serving.deployment import RollbackError
from mistere.serving.kserve.canary.held_pods import HeldPods
from mistere.serving.kserve.canary.route import Route
from mistere.serving.kserve.lease import no_lease
from tests.cluster import test_release_on_cluster as released
from tests.cluster.canary.conftest import (
    CANDIDATE,
    CHAMPION_ONLY,
    CONFIG,
    Release,
    all_is_back,
    hold,
    shares,
)
from tests.cluster.canary.traffic import Quality, Traffic
from tests.cluster.conftest import Cluster
from tests.cluster.observer import is_gone
from tests.cluster.trainer import until
from tests.stand_ins.gateway import Gateway
from tests.stand_ins.kubernetes_api import KINDS

pytestmark = pytest.mark.usefixtures("at_once")


def test_a_release_goes_through_the_shares(
    cluster: Cluster, gateway: Gateway, traffic: Traffic, store: LocalStore, release: Release
) -> None:
    first, second = cluster.bundle("a"), cluster.bundle("b")
    release(first)
    assert gateway.seen == [CHAMPION_ONLY] and traffic.requests.keys() <= {first.manifest.digest}
    message = release(second).message
    assert gateway.seen == [CHAMPION_ONLY, *shares(0, 10, 50, 100), CHAMPION_ONLY]
    all_is_back(cluster, gateway, second)
    assert read_champion(store).digest == second.manifest.digest
    journal = released.journal(store)
    assert (journal.state, journal.share) == ("done", 0)
    assert (
        "largest difference" in message
        and "Canary: 10 %: " in message
        and "99th percentile 25 instead of 25 ms" in message
    )
    assert "; 50 %: " in message and "; 100 %: " in message, message


@pytest.mark.long
def test_the_pods_of_an_autoscaler_are_kept_during_a_canary(
    cluster: Cluster, gateway: Gateway, store: LocalStore, release: Release
) -> None:
    """It may have given the service more pods than its minimum: the candidate needs as many, and the service may need them again."""
    first, second = cluster.bundle("a"), cluster.bundle("b")
    config = CONFIG.model_copy(update={"min_replicas": 1, "max_replicas": 3})
    release(first, config)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(HeldPods, "replicas", lambda _: 2)  # the stand-in has no autoscaler
        hold(cluster, store, second, 20, config)

    def minimum(name: str) -> Any:
        service: Any = cluster.api.find("inferenceservices", name)
        return service["spec"]["predictor"]["minReplicas"]

    assert (minimum("mistere"), minimum("mistere-candidate")) == (2, 2)
    hold(cluster, store, second, 30, config)
    end_canary(store, "mistere", "why", "who")
    assert minimum("mistere") == 1
    all_is_back(cluster, gateway, first)


@pytest.mark.long
def test_a_release_lets_the_kept_pods_go(cluster: Cluster, gateway: Gateway, release: Release) -> None:
    first, second = cluster.bundle("a"), cluster.bundle("b")
    config = CONFIG.model_copy(update={"min_replicas": 1, "max_replicas": 3})
    release(first, config)
    minimums: list[int] = []

    def note(_: object) -> None:
        service: Any = cluster.api.find("inferenceservices", "mistere")
        minimums.append(service["spec"]["predictor"]["minReplicas"])

    gateway.on_change = note
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(HeldPods, "replicas", lambda _: 2)
        release(second, config)
    note(None)
    assert minimums == [2, 2, 2, 2, 2, 1]
    all_is_back(cluster, gateway, second)


@pytest.mark.long
def test_the_journal_has_each_share_before_the_route(
    cluster: Cluster, gateway: Gateway, store: LocalStore, release: Release
) -> None:
    first, second = cluster.bundle("a"), cluster.bundle("b")
    release(first)
    seen: list[tuple[int, int]] = []
    gateway.on_change = lambda weights: seen.append((released.journal(store).share, weights.get(CANDIDATE, 0)))
    release(second)
    assert seen == [(0, 0), (10, 10), (50, 50), (100, 100), (100, 0)]


@pytest.mark.parametrize(
    ("quality", "reason"),
    [
        (
            Quality(errors=20),
            r"failed at 10 % .*1\d\.\d % of its \d+ requests ended in an error, 0\.0 % of the deployed",
        ),
        (
            Quality(refuses=True),
            r"failed at 10 % .*it refused 100\.0 % of its \d+ requests, the deployed version 9\.\d %",
        ),
        (
            Quality(seconds=0.2),
            r"failed at 10 % .*99th percentile of its time is 24\d ms, that of the deployed version 25 ms",
        ),
        (Quality(labels={"anger": 80, "joy": 20}), r"failed at 10 % .*anger is 80 % instead of 30 %"),
        (Quality(hangs=True), r"failed at 10 % .*the clients of 100\.0 % of its \d+ requests left before the answer"),
    ],
    ids=["errors", "refusals", "slow", "labels", "hangs"],
)
def test_a_worse_model_goes_back_by_itself(
    cluster: Cluster,
    gateway: Gateway,
    traffic: Traffic,
    store: LocalStore,
    release: Release,
    quality: Quality,
    reason: str,
) -> None:
    first, second = cluster.bundle("a"), cluster.bundle("b")
    release(first)
    traffic.quality[second.manifest.digest] = quality
    with pytest.raises(MistereError, match=reason):
        release(second)
    assert gateway.seen == [CHAMPION_ONLY, *shares(0, 10), CHAMPION_ONLY]
    all_is_back(cluster, gateway, first)
    assert read_champion(store).digest == first.manifest.digest and released.journal(store).state == "done"
    assert [event.outcome for event in read_log(store).events] == ["done", "undone"]
    assert cluster.api.find("inferenceservices", "mistere")["metadata"]["generation"] == 1, "its pods were not touched"  # type: ignore[index]


@pytest.mark.long
def test_trouble_of_both_versions_ends_no_canary(
    cluster: Cluster, gateway: Gateway, traffic: Traffic, release: Release
) -> None:
    """From the second step on, half of the requests fail, whichever version gets them."""
    first, second = cluster.bundle("a"), cluster.bundle("b")
    release(first)

    def trouble(weights: dict[str, int]) -> None:
        if weights.get(CANDIDATE) == 50:
            traffic.quality |= {bundle.manifest.digest: Quality(errors=50) for bundle in (first, second)}

    gateway.on_change = trouble
    canary = CanaryConfig(window_seconds=0.2, min_requests=700, steps=[10, 50])  # enough for the first window alone
    steps = CONFIG.model_copy(update={"canary": canary})
    assert "; 50 %: " in release(second, steps).message
    all_is_back(cluster, gateway, second)


@pytest.mark.long
def test_a_pod_that_restarts_ends_the_canary(cluster: Cluster, gateway: Gateway, release: Release) -> None:
    first, second = cluster.bundle("a"), cluster.bundle("b")
    release(first)
    gateway.on_change = lambda weights: weights.get(CANDIDATE) == 50 and cluster.behave(second, "restarts")
    with pytest.raises(MistereError, match=r"failed at 50 % .*a pod restarted or failed"):
        release(second, CONFIG.model_copy(update={"canary": CanaryConfig(window_seconds=1.5, min_requests=50)}))
    all_is_back(cluster, gateway, first)


@pytest.mark.long
def test_few_requests_are_said_and_only_errors_count(
    cluster: Cluster, gateway: Gateway, traffic: Traffic, release: Release
) -> None:
    first, second, third = (cluster.bundle(name) for name in "abc")
    release(first)
    many = CONFIG.model_copy(update={"canary": CanaryConfig(window_seconds=0.2, min_requests=10**9, steps=[10])})
    traffic.quality[second.manifest.digest] = Quality(seconds=0.9)
    assert "too few for a comparison" in release(second, many).message
    traffic.quality[third.manifest.digest] = Quality(errors=50)
    with pytest.raises(MistereError, match="ended in an error"):
        release(third, many)
    traffic.stop()
    assert "10 %: no requests." in release(third, many).message
    all_is_back(cluster, gateway, third)


def test_a_cluster_without_the_gateway_api_is_refused(
    make_cluster: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = make_cluster(kinds=tuple(kind for kind in KINDS if kind != "httproutes"))
    bundle = cluster.bundle("a")
    with pytest.raises(MistereError, match=r"does not serve the Gateway API .*deployment\.gateway\.name to ''"):
        cluster.to(bundle, CONFIG).roll_out(bundle, no_lease)
    assert cluster.server.changes() == []


@pytest.mark.long
def test_a_gateway_that_takes_no_route_changes_nothing(
    cluster: Cluster, gateway: Gateway, store: LocalStore, release: Release
) -> None:
    first, second = cluster.bundle("a"), cluster.bundle("b")
    release(first)
    gateway.refuses = "NotAllowedByListeners"
    with pytest.raises(MistereError, match=r"does not take the route mistere-route: Accepted is False \(NotAllowedBy"):
        release(second)
    all_is_back(cluster, gateway, first)
    assert released.journal(store).state == "done"


def stuck_at_10(
    cluster: Cluster, gateway: Gateway, traffic: Traffic, release: Release
) -> tuple[ArtifactHandle[ModelBundle], ArtifactHandle[ModelBundle]]:
    """A faulty candidate with 10 % of the requests, whose Gateway takes no further change; returns the champion's bundle and its own."""
    first, second = cluster.bundle("a"), cluster.bundle("b")
    release(first)
    traffic.quality[second.manifest.digest] = Quality(errors=50)

    def break_at_10(weights: dict[str, int]) -> None:
        if weights.get(CANDIDATE) == 10:
            gateway.refuses = "Pending"

    gateway.on_change = break_at_10
    with pytest.raises(RollbackError, match="could not be undone yet"):
        release(second)
    return first, second


@pytest.mark.long
def test_a_candidate_that_gets_requests_is_kept_until_the_gateway_knows(
    cluster: Cluster, gateway: Gateway, traffic: Traffic, store: LocalStore, release: Release
) -> None:
    first, _ = stuck_at_10(cluster, gateway, traffic, release)
    assert cluster.api.find("inferenceservices", "mistere-candidate") is not None
    assert released.journal(store).state == "pending"
    gateway.refuses = ""
    assert "rolled back" in recover(store, released.mirror, "mistere")
    all_is_back(cluster, gateway, first)


@pytest.mark.long
def test_a_second_attempt_waits_for_the_gateway_too(
    cluster: Cluster, gateway: Gateway, traffic: Traffic, store: LocalStore, release: Release
) -> None:
    """The first attempt changes the route; the Gateway has not taken it when the next process comes."""
    first, second = stuck_at_10(cluster, gateway, traffic, release)
    route = cluster.api.find("httproutes", "mistere-route")
    assert route is not None and len(route["spec"]["rules"][0]["backendRefs"]) == 1, "the route is right already"
    with pytest.raises(MistereError, match="does not take the route"):
        cluster.to(second, CONFIG).undo(cluster.deployment(first, CONFIG))
    assert cluster.api.find("inferenceservices", "mistere-candidate") is not None
    assert gateway.weights == shares(10)[0]
    gateway.refuses = ""
    assert "rolled back" in recover(store, released.mirror, "mistere")
    all_is_back(cluster, gateway, first)
    assert not Route(connect(), CONFIG).candidate_may_receive()


KILLED_AT = {"dark": 0, "10": 10, "100": 100, "in the service": 100}


@pytest.mark.long
@pytest.mark.parametrize("moment", KILLED_AT)
def test_the_next_process_takes_a_killed_canary_back(
    cluster: Cluster, gateway: Gateway, store: LocalStore, release: Release, moment: str
) -> None:
    """``kill -9`` at a share; the next process finds the share in the journal, goes back, and can release again."""
    first, second = cluster.bundle("a"), cluster.bundle("b")
    release(first)
    share = KILLED_AT[moment]
    canary = CanaryConfig(
        window_seconds=0.2 if moment == "in the service" else 600, steps=[share or 10], min_requests=50
    )
    config = CONFIG.model_copy(update={"canary": canary})
    if moment == "in the service":
        cluster.behave(second, "nowhere", "mistere")
    elif moment == "dark":
        gateway.on_change = lambda weights: CANDIDATE in weights and process.kill()
    deployment = cluster.deployment(second, config)
    program = [sys.executable, "-m", "tests.cluster.canary.release_process", store.uri, deployment.model_dump_json()]
    ports = [str(protocol.HTTP_PORT), str(protocol.GRPC_PORT)]
    environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig())}
    process = subprocess.Popen([*program, *ports], env=environment, cwd=Path(__file__).parents[3])

    def reached() -> bool:
        assert process.poll() in (None, -signal.SIGKILL)
        if moment == "dark":
            return process.poll() is not None
        if moment == "in the service":
            return cluster.served() == second.manifest.digest
        return gateway.weights.get(CANDIDATE) == share and released.journal(store).share == share

    until(reached)
    process.kill()
    process.wait()
    cluster.controller.behaviours.clear()
    assert (released.journal(store).state, released.journal(store).share) == ("pending", share)
    gateway.on_change = lambda _: None
    assert "rolled back" in recover(store, released.mirror, "mistere")
    until(lambda: gateway.weights == CHAMPION_ONLY)
    all_is_back(cluster, gateway, first)
    assert read_champion(store).digest == first.manifest.digest
    release(second)
    all_is_back(cluster, gateway, second)


def test_a_release_without_a_gateway_makes_no_route(cluster: Cluster, release: Release) -> None:
    first, second = cluster.bundle("a"), cluster.bundle("b")
    plain = CONFIG.model_copy(update={"gateway": GatewayConfig()})
    release(first, plain)
    release(second, plain)
    assert cluster.api.all("httproutes") == [] and cluster.served() == second.manifest.digest
    assert not Route(connect(), plain).configured
    assert json.dumps([path for _, path in cluster.server.calls]).count("httproutes") == 0


def test_a_first_release_that_fails_leaves_no_route(cluster: Cluster, gateway: Gateway, store: LocalStore) -> None:
    bundle = cluster.bundle("a")
    to = cluster.to(bundle, CONFIG)
    to.roll_out(bundle, no_lease)
    assert cluster.api.find("httproutes", "mistere-route") is not None
    to.undo(None)
    assert cluster.api.find("httproutes", "mistere-route") is None and is_gone(cluster, "mistere")
    gateway.refuses = "Pending"
    with pytest.raises(MistereError, match="does not take the route"):
        to.roll_out(bundle, no_lease)
    assert cluster.api.find("httproutes", "mistere-route") is None and is_gone(cluster, "mistere")
