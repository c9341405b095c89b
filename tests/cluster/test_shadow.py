"""A shadow on a cluster: a service of its own beside the deployed one, started, tested, promoted and removed by the command's code."""

from __future__ import annotations

from typing import Any

import pytest

from mistere.common.errors import MistereError, UsageError
from mistere.config.deployment import DeploymentConfig
from mistere.config.predictor import PredictorConfig
from mistere.kubernetes.api import connect
from mistere.predictor.settings import parse_arguments
from mistere.serving.kserve.inference_service import (
    SHADOW_LABEL,
    inference_service,
    revision_of,
    shadow_service,
    shadow_url,
)
from mistere.serving.kserve.shadow_rollout import require_copies, start_shadow, stop_shadow
from mistere.serving.kserve.supported_settings import check_cluster_support
from tests.cluster.conftest import Cluster

CONFIG = DeploymentConfig(mode="standard", ready_timeout=60, shadow=True, traffic=True)
DIGEST = "a" * 64
LOCATION = f"s3://models/artifacts/ModelBundle/{DIGEST}"


def renew() -> None:
    """A lease that nobody takes."""


def shadow_of(cluster: Cluster) -> Any:
    return cluster.api.find("inferenceservices", "mistere-shadow")


def arguments(service: dict[str, Any]) -> Any:
    return parse_arguments(service["spec"]["predictor"]["containers"][0]["args"], {})


def test_the_shadow_serves_beside_the_deployed_version(cluster: Cluster) -> None:
    first, second = cluster.bundle("a"), cluster.bundle("b")
    cluster.to(first, CONFIG).roll_out(first, renew)
    answer = start_shadow(cluster.to(second, CONFIG), second)
    assert "largest difference" in answer
    live = shadow_of(cluster)
    assert live["spec"]["predictor"]["annotations"]["mistere/bundle-digest"] == second.manifest.digest
    assert cluster.served() == first.manifest.digest
    third = cluster.bundle("c")
    start_shadow(cluster.to(third, CONFIG), third)  # replaces it
    cluster.to(second, CONFIG).roll_out(second, renew)  # a release leaves it alone
    assert shadow_of(cluster)["spec"]["predictor"]["annotations"]["mistere/bundle-digest"] == third.manifest.digest
    stop_shadow(connect(), CONFIG)
    stop_shadow(connect(), CONFIG)
    live = shadow_of(cluster)
    assert live is None or live["metadata"].get("deletionTimestamp")
    assert cluster.served() == second.manifest.digest


def test_a_shadow_that_fails_its_test_is_deleted_again(cluster: Cluster) -> None:
    first, second = cluster.bundle("a"), cluster.bundle("b")
    cluster.to(first, CONFIG).roll_out(first, renew)
    cluster.behave(second, "crash")
    with pytest.raises(MistereError, match="CrashLoopBackOff"):
        start_shadow(cluster.to(second, CONFIG), second)
    live = shadow_of(cluster)
    assert live is None or live["metadata"].get("deletionTimestamp")
    assert cluster.served() == first.manifest.digest


def test_the_deployed_predictor_copies_and_the_shadow_does_not() -> None:
    front = inference_service(LOCATION, DIGEST, CONFIG, "image")
    shadow = shadow_service(LOCATION, DIGEST, CONFIG, "image")
    assert arguments(front).options.shadow == shadow_url(CONFIG) and not arguments(front).options.copies
    options = arguments(shadow).options
    assert options == PredictorConfig(copies=True) and arguments(shadow).model_name == "mistere"
    assert shadow_url(CONFIG) == "http://mistere-shadow-predictor.mistere.svc.cluster.local"
    assert shadow["metadata"]["name"] == "mistere-shadow" and revision_of(shadow) != revision_of(front)
    for labels in (shadow["metadata"]["labels"], shadow["spec"]["predictor"]["labels"]):
        assert labels[SHADOW_LABEL] == "true" and labels["app.kubernetes.io/name"] == "mistere-predictor"
    assert SHADOW_LABEL not in front["metadata"]["labels"] | front["spec"]["predictor"]["labels"]
    assert shadow["spec"]["predictor"]["maxReplicas"] == 1
    own = DeploymentConfig(mode="standard", shadow=True, predictor=PredictorConfig(shadow="http://elsewhere:80"))
    assert arguments(inference_service(LOCATION, DIGEST, own, "image")).options.shadow == "http://elsewhere:80"


def test_what_cannot_copy_is_refused() -> None:
    with pytest.raises(UsageError, match=r"deployment\.shadow=true"):
        require_copies(DeploymentConfig(mode="standard"))
    require_copies(CONFIG)
    with pytest.raises(UsageError, match=r"needs deployment\.mode=standard"):
        check_cluster_support(DeploymentConfig(mode="knative", shadow=True))
