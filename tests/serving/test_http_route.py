"""The HTTPRoute is valid under the CRD of the Gateway API, and its status is read as its controllers write it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import ValidationError

from mistere.common.errors import UsageError
from mistere.config.canary import CanaryConfig, GatewayConfig
from mistere.config.deployment import DeploymentConfig
from mistere.serving.kserve.canary.route import http_route, problem, route_path, share_of_candidate
from mistere.serving.kserve.supported_settings import check_cluster_support, check_release_time
from pipelines.catalogue import Retraining
from pipelines.profiles import load_profile
from tests.serving.test_inference_service import LOADER, strict

CRD = Path(__file__).resolve().parents[2].parent / "shared" / "crds" / "gateway.networking.k8s.io_httproutes.yaml"
PLAIN = DeploymentConfig(mode="standard", gateway=GatewayConfig(name="public"))
FULL = DeploymentConfig(
    mode="standard",
    service="emotions",
    namespace="speech",
    gateway=GatewayConfig(
        name="public", namespace="gateways", listener="https", hostnames=["emotions.example.org", "*.internal.example"]
    ),
)


@pytest.mark.parametrize("config", [PLAIN, FULL], ids=["plain", "full"])
@pytest.mark.parametrize("share", [None, 0, 10, 100])
def test_the_route_is_valid_under_the_crd(config: DeploymentConfig, share: int | None) -> None:
    if not CRD.is_file():
        pytest.skip("the CRD of HTTPRoutes is not beside this checkout")
    versions = yaml.load(CRD.read_text(encoding="utf-8"), LOADER)["spec"]["versions"]
    schema = strict(next(version for version in versions if version["name"] == "v1")["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    validator = jsonschema.Draft202012Validator(schema)
    content = http_route(config, share)
    assert not [error.message for error in validator.iter_errors(content)]
    content["spec"]["rules"][0]["backendRefs"][0]["weights"] = 1
    assert list(validator.iter_errors(content))


def test_the_route_splits_between_both_services() -> None:
    """The fields that matter, without the CRD: kubernetes-sigs/gateway-api, ``apis/v1/httproute_types.go`` and ``shared_types.go``."""
    content = http_route(FULL, 10)
    assert (content["apiVersion"], content["kind"]) == ("gateway.networking.k8s.io/v1", "HTTPRoute")
    assert content["metadata"]["name"] == "emotions-route" and content["metadata"]["namespace"] == "speech"
    assert content["spec"] == {
        "parentRefs": [{"name": "public", "namespace": "gateways", "sectionName": "https"}],
        "hostnames": ["emotions.example.org", "*.internal.example"],
        "rules": [
            {
                "backendRefs": [
                    {"name": "emotions-predictor", "port": 80, "weight": 90},
                    {"name": "emotions-candidate-predictor", "port": 80, "weight": 10},
                ]
            }
        ],
    }
    plain = http_route(PLAIN, None)["spec"]
    assert plain["parentRefs"] == [{"name": "public", "namespace": "mistere"}] and "hostnames" not in plain
    assert plain["rules"] == [{"backendRefs": [{"name": "mistere-predictor", "port": 80, "weight": 100}]}]
    assert route_path(FULL) == "/apis/gateway.networking.k8s.io/v1/namespaces/speech/httproutes/emotions-route"


@pytest.mark.parametrize("share", [None, 0, 10, 100])
def test_the_share_is_read_from_the_route(share: int | None) -> None:
    assert share_of_candidate(http_route(PLAIN, share), "mistere") == share
    assert share_of_candidate(None, "mistere") is None


def parent(name: str = "public", generation: int = 2, **conditions: str) -> dict[str, Any]:
    return {
        "parentRef": {"name": name},
        "conditions": [
            {"type": kind, "status": status, "reason": "R", "message": "M.", "observedGeneration": generation}
            for kind, status in conditions.items()
        ],
    }


TAKEN = {"Accepted": "True", "ResolvedRefs": "True"}


@pytest.mark.parametrize(
    ("parents", "expected"),
    [
        ([parent(**TAKEN)], ""),
        ([parent("other", Accepted="False"), parent(**TAKEN)], ""),
        ([parent(Accepted="False", ResolvedRefs="True"), parent(**TAKEN)], ""),
        ([parent(generation=1, **TAKEN)], "its controller has not seen the change yet"),
        ([parent(Accepted="True")], "its controller has not seen the change yet"),
        ([parent(Accepted="True", ResolvedRefs="False")], "ResolvedRefs is False (R: M)"),
        ([parent("other", **TAKEN)], "no controller has taken it over"),
        ([], "is there a Gateway public"),
    ],
)
def test_a_route_counts_once_its_gateway_has_taken_it(parents: list[dict[str, Any]], expected: str) -> None:
    found = problem({"metadata": {"generation": 2}, "status": {"parents": parents}}, "public")
    assert found == expected == "" or (expected and expected in found)


def test_the_route_has_a_time_limit_only_if_one_is_set() -> None:
    """A controller may refuse a route with the field, so that its absence is the default."""
    assert "timeouts" not in http_route(FULL, 10)["spec"]["rules"][0]
    limited = http_route(FULL.model_copy(update={"request_timeout": 900}), 10)
    assert limited["spec"]["rules"][0]["timeouts"] == {"request": "900s"}


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValidationError, match="must ascend"):
        CanaryConfig(steps=[10, 10])
    with pytest.raises(ValidationError, match="less than or equal to 100"):
        CanaryConfig(steps=[10, 101])
    with pytest.raises(ValidationError, match="hostnames"):
        GatewayConfig(name="public", hostnames=["https://emotions.example.org"])
    with pytest.raises(UsageError, match=r"deployment\.gateway needs deployment\.mode=standard"):
        check_cluster_support(DeploymentConfig(mode="knative", gateway=GatewayConfig(name="public")))
    check_cluster_support(FULL)


def test_a_canary_that_outlasts_its_step_is_refused() -> None:
    """Three windows of 300 s, and 120 s each for the candidate and for the service."""
    check_release_time(PLAIN, 3 * 300 + 2 * 120)
    with pytest.raises(
        UsageError, match=r"may take 1140 s \(3 steps .* cluster\.steps\.deploy_model\.timeout=1139 ends it"
    ):
        check_release_time(PLAIN, 3 * 300 + 2 * 120 - 1)
    check_release_time(PLAIN.model_copy(update={"canary": CanaryConfig(steps=[])}), 1)
    check_release_time(DeploymentConfig(mode="standard"), 1)
    slow = ["cluster.steps.deploy_model.timeout=600", "deployment.mode=standard", "deployment.gateway.name=public"]
    with pytest.raises(UsageError, match=r"may take 2100 s .*timeout=600 ends it"):
        Retraining().check(load_profile("tiny", slow))


def test_the_profiles_leave_time_for_a_canary() -> None:
    for name in ("sample", "gpu", "paper"):
        Retraining().check(load_profile(name, ["deployment.mode=standard", "deployment.gateway.name=public"]))
