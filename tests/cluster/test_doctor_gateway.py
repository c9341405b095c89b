"""``mistere doctor`` on the shares of a release: the Gateway API, the Gateway, its listener, and the right to write the route."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mistere.serving.kserve.canary.route import gateway_path, http_route, route_path
from tests.cluster.doctor_checks import (  # noqa: F401 - fixtures
    cluster_results,
    ignore_this_machine,
    plan,
    serve_kubernetes_api,
)
from tests.stand_ins.doctor_cluster import KubernetesApi

SETTINGS = ("deployment.mode=standard", "deployment.gateway={name: public, namespace: gateways}")
API = "/apis/gateway.networking.k8s.io/v1"
CHECK = "shares of a release"
Change = Callable[[dict[str, Any]], object]


def install(api: KubernetesApi, change: Change = lambda _: None) -> None:
    api.objects[API] = api.resources("gateways", "httproutes")
    path = gateway_path(plan("sample", *SETTINGS).config.deployment)
    listener = {"name": "https", "protocol": "HTTPS", "port": 443, "allowedRoutes": {"namespaces": {"from": "All"}}}
    gateway = {
        "metadata": {"name": "public", "namespace": "gateways"},
        "spec": {"gatewayClassName": "envoy", "listeners": [listener]},
        "status": {"conditions": [{"type": "Programmed", "status": "True"}]},
    }
    change(gateway)
    api.objects[path] = gateway


def test_a_cluster_without_a_gateway_releases_pod_by_pod(kubernetes_api: KubernetesApi) -> None:
    result = cluster_results("deployment.mode=standard")[CHECK]
    assert result.status == "ok" and "replaces the pods one by one" in result.sentence
    for mode in ("local", "knative"):
        assert CHECK not in cluster_results(f"deployment.mode={mode}")


def test_a_gateway_that_takes_the_route_passes(kubernetes_api: KubernetesApi) -> None:
    install(kubernetes_api)
    result = cluster_results(*SETTINGS)[CHECK]
    assert (result.status, result.sentence) == ("ok", "by the Gateway public: 10 %, 50 %, 100 %.")
    by_hand = cluster_results(*SETTINGS, "deployment.canary.steps=[]", "deployment.gateway.listener=https")[CHECK]
    assert by_hand.status == "ok" and "by hand only" in by_hand.sentence


TROUBLES: dict[str, tuple[Change, tuple[str, ...], str]] = {
    "another listener": (lambda _: None, ("deployment.gateway.listener=http",), "has no listener http (it has: https)"),
    "not programmed": (
        lambda gateway: gateway["status"]["conditions"][0].update(
            status="False", reason="AddressNotAssigned", message=""
        ),
        (),
        "is not programmed (AddressNotAssigned)",
    ),
    "its own namespace only": (
        lambda gateway: gateway["spec"]["listeners"][0].pop("allowedRoutes"),
        (),
        "admits only routes of its own namespace",
    ),
    "another Gateway": (
        lambda _: None,
        ("deployment.gateway.name=private",),
        "there is no Gateway private in namespace gateways",
    ),
}


@pytest.mark.parametrize("name", TROUBLES)
def test_a_gateway_that_does_not_take_the_route_is_named(name: str, kubernetes_api: KubernetesApi) -> None:
    change, settings, expected = TROUBLES[name]
    install(kubernetes_api, change)
    result = cluster_results(*SETTINGS, *settings)[CHECK]
    assert result.status == "failed" and expected in result.sentence


def test_what_is_missing_in_the_cluster_is_named(kubernetes_api: KubernetesApi) -> None:
    result = cluster_results(*SETTINGS)[CHECK]
    assert result.status == "failed" and "the Gateway API is not installed" in result.sentence
    install(kubernetes_api)
    kubernetes_api.denied_verbs.add("patch")
    result = cluster_results(*SETTINGS)[CHECK]
    assert result.status == "failed" and "may not patch mistere-route httproutes.gateway" in result.sentence
    assert "manifests/components/gateway" in result.sentence
    kubernetes_api.denied_verbs.clear()
    kubernetes_api.forbidden.append("/gateways/public$")
    assert cluster_results(*SETTINGS)[CHECK].status == "skipped"


def test_a_route_that_gives_a_candidate_requests_is_named(kubernetes_api: KubernetesApi) -> None:
    install(kubernetes_api)
    config = plan("sample", *SETTINGS).config.deployment
    kubernetes_api.objects[route_path(config)] = http_route(config, None)
    assert cluster_results(*SETTINGS)[CHECK].status == "ok"
    kubernetes_api.objects[route_path(config)] = http_route(config, 10)
    result = cluster_results(*SETTINGS)[CHECK]
    assert (
        result.status == "note"
        and "the route mistere-route gives the candidate 10 % of the requests" in result.sentence
    )
    kubernetes_api.forbidden.append("/httproutes/mistere-route$")
    assert cluster_results(*SETTINGS)[CHECK].status == "ok", "whoever runs it may not read the route"
