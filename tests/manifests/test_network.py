"""Network policies allow the required traffic only, in every overlay."""

from __future__ import annotations

import pytest

from mistere.config.deployment import DeploymentConfig
from mistere.serving import protocol
from mistere.serving.kserve.inference_service import SHADOW_LABEL, inference_service
from tests.manifests.conftest import OVERLAYS, Builds, of_kind
from tests.manifests.policy_model import Endpoint, reaches
from tests.manifests.test_names import NAMESPACES

RUN = {"workflows.argoproj.io/workflow": "mistere-x"}
NODE = {"jobset.sigs.k8s.io/jobset-name": "mistere-x"}
PREDICTOR = inference_service(f"s3://BUCKET/{'0' * 64}", "0" * 64, DeploymentConfig(), "image")["spec"]["predictor"][
    "labels"
]
DNS = Endpoint("kube-system", {"k8s-app": "kube-dns"})
STORE, API, METADATA = Endpoint(address="192.0.2.10"), Endpoint(address="10.0.0.5"), Endpoint(address="169.254.169.254")
"""The store's address is within the placeholder of components/store."""
TRACKING, ANYWHERE = Endpoint(address="198.51.100.10"), Endpoint(address="52.218.0.1")


def namespaces_of(overlay: str) -> tuple[str, str]:
    """Return the namespace of the runs and that of the predictor."""
    serving = next(name for name in NAMESPACES[overlay] if name != "kubeflow")
    return ("kubeflow" if overlay == "kind" else serving), serving


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_required_traffic_is_allowed_and_other_traffic_is_denied(builds: Builds, overlay: str) -> None:
    policies = list(of_kind(builds[overlay], "NetworkPolicy").values())
    runs, serving = namespaces_of(overlay)
    step, predictor = Endpoint(runs, RUN), Endpoint(serving, PREDICTOR)
    unrelated, foreign = Endpoint(serving, {"app": "notebook"}), Endpoint("default", {"app": "notebook"})
    required = [
        (step, predictor, protocol.HTTP_PORT),
        (step, predictor, protocol.GRPC_PORT),
        (step, Endpoint("kubeflow", {"app": "ml-pipeline"}), 8887),
        (step, Endpoint("kubeflow", {"component": "metadata-grpc-server"}), 8080),
        (step, API, 6443),
        (Endpoint("monitoring", {"app": "prometheus"}), predictor, protocol.HTTP_PORT),
        (Endpoint("istio-system", {"app": "gateway"}), predictor, protocol.HTTP_PORT),
        (Endpoint("istio-system", {"app": "gateway"}), predictor, protocol.GRPC_PORT),
        (Endpoint(serving, NODE), Endpoint(serving, NODE), 29500),
        (step, DNS, 53),
        (predictor, DNS, 53),
    ]
    if overlay != "kind":  # its store is another address, see below, and its steps run in a namespace without policies
        required += [(source, STORE, 443) for source in (step, predictor, Endpoint(serving, NODE))]
        required += [(source, TRACKING, 443) for source in (step, Endpoint(serving, NODE))]
    for source, target, port in required:
        assert reaches(policies, source, target, port), (source, target, port)
    assert reaches(policies, predictor, DNS, 53, "UDP")
    denied = [
        (unrelated, predictor, protocol.HTTP_PORT),
        (foreign, predictor, protocol.HTTP_PORT),
        (Endpoint("monitoring", {"app": "prometheus"}), predictor, protocol.GRPC_PORT),
        (foreign, Endpoint(serving, NODE), 29500),
        (foreign, Endpoint(serving, RUN), 8080),
        (predictor, STORE, 80),
        (predictor, TRACKING, 443),
        (predictor, ANYWHERE, 443),
        (predictor, API, 443),
        (Endpoint(serving, NODE), ANYWHERE, 443),
        (Endpoint(serving, RUN), ANYWHERE, 443),
        (Endpoint(serving, NODE), API, 6443),
        (predictor, API, 6443),
        (predictor, METADATA, 80),
        (predictor, METADATA, 443),
        (predictor, foreign, 8080),
        (Endpoint(serving, RUN), METADATA, 80),
        (Endpoint(serving, NODE), METADATA, 443),
        (Endpoint(serving, RUN), foreign, 8080),
        (unrelated, STORE, 443),
        (unrelated, unrelated, 8080),
    ]
    for source, target, port in denied:
        assert not reaches(policies, source, target, port), (source, target, port)


# Who may reach which address on port 443: the pods of runs, of a TrainJob, and the predictor.
ADDRESSES = {
    "base": {},
    "store": {"store": {"step", "node", "predictor"}},
    "tracking": {"tracking": {"step", "node"}},
    "hub": {name: {"step", "node"} for name in ("store", "tracking", "anywhere")},
    "any-https": {name: {"step", "node", "predictor"} for name in ("store", "tracking", "anywhere")},
}


@pytest.mark.parametrize("component", ADDRESSES)
def test_only_a_component_opens_addresses_outside_the_cluster(builds: Builds, component: str) -> None:
    policies = list(of_kind(builds[f"with {component}"], "NetworkPolicy").values())
    pods = {
        name: Endpoint("mistere", labels) for name, labels in (("step", RUN), ("node", NODE), ("predictor", PREDICTOR))
    }
    for target, endpoint in {"store": STORE, "tracking": TRACKING, "anywhere": ANYWHERE}.items():
        admitted = {name for name, pod in pods.items() if reaches(policies, pod, endpoint, 443)}
        assert admitted == ADDRESSES[component].get(target, set()), target
        assert not any(reaches(policies, pod, endpoint, 80) for pod in pods.values())
    assert not any(reaches(policies, pod, METADATA, port) for pod in pods.values() for port in (80, 443))


def test_every_address_is_open_in_named_components_only(builds: Builds) -> None:
    for build, objects in builds.items():
        open_blocks = "0.0.0.0/0" in str(list(of_kind(objects, "NetworkPolicy").values()))
        assert open_blocks is (build in {"with hub", "with any-https"}), build


def test_kind_overlay_allows_the_store_outside_the_cluster(builds: Builds) -> None:
    policies = list(of_kind(builds["kind"], "NetworkPolicy").values())
    predictor, store = Endpoint("mistere", PREDICTOR), Endpoint(address="172.18.0.1")
    assert reaches(policies, predictor, store, 9000) and not reaches(policies, predictor, store, 22)


def test_knative_traffic_passes_the_queue_proxy(builds: Builds) -> None:
    policies = list(of_kind(builds["with knative"], "NetworkPolicy").values())
    predictor, activator = Endpoint("mistere", PREDICTOR), Endpoint("knative-serving", {"app": "activator"})
    assert reaches(policies, activator, predictor, 8012)
    assert not reaches(policies, activator, predictor, protocol.HTTP_PORT)
    assert reaches(policies, Endpoint("mistere", RUN), predictor, protocol.HTTP_PORT), (
        "deploy_model calls the predictor's pod directly"
    )


def test_the_predictor_reaches_its_shadow_with_the_component_only(builds: Builds) -> None:
    front, shadow = Endpoint("mistere", PREDICTOR), Endpoint("mistere", PREDICTOR | {SHADOW_LABEL: "true"})
    unrelated = Endpoint("mistere", {"app": "notebook"})
    for build, admitted in (("with base", False), ("with shadow", True)):
        policies = list(of_kind(builds[build], "NetworkPolicy").values())
        assert reaches(policies, front, shadow, protocol.HTTP_PORT) is admitted
        for source, target in ((front, front), (unrelated, shadow), (front, unrelated)):
            assert not reaches(policies, source, target, protocol.HTTP_PORT), (build, source, target)
    policies = list(of_kind(builds["with store"], "NetworkPolicy").values())
    assert reaches(policies, shadow, STORE, 443)


# The facts of each network: NodeLocal DNSCache listens on 169.254.20.10 with the node's network; OpenShift's DNS pods are in
# openshift-dns and listen on 5353; minikube's API server listens on 8443, that of MicroK8s on 16443.
NETWORKS = {
    "dns-node-local": (Endpoint(address="169.254.20.10"), 53, ("UDP", "TCP")),
    "dns-openshift": (
        Endpoint("openshift-dns", {"dns.operator.openshift.io/daemonset-dns": "default"}),
        5353,
        ("UDP", "TCP"),
    ),
    "api-server-8443": (Endpoint(address="192.168.49.2"), 8443, ("TCP",)),
    "api-server-16443": (Endpoint(address="10.152.183.1"), 16443, ("TCP",)),
}


@pytest.mark.parametrize("component", NETWORKS)
def test_each_network_has_a_component_that_admits_it(builds: Builds, component: str) -> None:
    target, port, protocols = NETWORKS[component]
    base, with_component = (
        list(of_kind(builds[f"with {name}"], "NetworkPolicy").values()) for name in ("base", component)
    )
    step, predictor, node = (Endpoint("mistere", labels) for labels in (RUN, PREDICTOR, NODE))
    for name in protocols:
        assert not reaches(base, step, target, port, name), "the base admits it already"
        assert reaches(with_component, step, target, port, name)
    for source in (predictor, node):
        assert reaches(with_component, source, target, port) is component.startswith("dns"), "only steps use the API"
    assert not reaches(with_component, step, METADATA, port)
