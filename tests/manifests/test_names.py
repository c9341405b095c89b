"""Names in the code and in the manifests are equal."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import yaml

from mistere.config.cluster import ClusterConfig, StepSettings
from mistere.config.deployment import DeploymentConfig
from mistere.config.stages import stages
from mistere.serving import protocol
from mistere.serving.kserve.inference_service import SERVICE_ACCOUNT, inference_service
from pipelines.profiles import load_profile
from tests.compile.test_placement import number
from tests.manifests.conftest import Builds, of_kind

CLUSTER, DEPLOYMENT = ClusterConfig(), DeploymentConfig()
NAMESPACES = {"kind": {"mistere", "kubeflow"}, "staging": {"mistere-staging"}, "production": {"mistere"}}
CLUSTER_SCOPED = {"Namespace"}
DIGEST = "0" * 64
OF_THE_BUNDLE = {"image", "mistere/bundle", "mistere/bundle-digest", "mistere/revision"}


def written(mode: Literal["standard", "knative"] = "standard") -> dict[str, Any]:
    location = f"s3://BUCKET/mistere/artifacts/ModelBundle/{DIGEST}"
    return inference_service(location, DIGEST, DeploymentConfig(mode=mode), "mistere/predictor-python:src-000000000000")


def service(builds: Builds, build: str) -> dict[str, Any]:
    return of_kind(builds[build], "InferenceService")[DEPLOYMENT.service]


def without_bundle(content: Any) -> Any:
    """The same with nothing in it that depends on image and bundle."""
    if isinstance(content, list):
        return [without_bundle(value) for value in content]
    if not isinstance(content, dict):
        return content
    kept = {key: without_bundle(value) for key, value in content.items()}
    kept |= dict.fromkeys(OF_THE_BUNDLE & set(kept), "")
    return kept | {"args": kept["args"][1:]} if "args" in kept else kept


def test_the_inference_service_is_the_one_that_the_code_writes(builds: Builds) -> None:
    found, wanted = service(builds, "with base"), written()
    text = yaml.safe_dump(wanted, sort_keys=False, width=120)
    assert without_bundle(found) == without_bundle(wanted), f"base/inference-service/inference-service.yaml is\n{text}"
    predictor = found["spec"]["predictor"]
    assert predictor["containers"][0]["args"][0] == f"s3://BUCKET/mistere/artifacts/ModelBundle/{DIGEST}"
    assert predictor["labels"]["mistere/bundle"] == DIGEST[:12]


def test_components_change_what_their_mode_needs_and_nothing_else(builds: Builds) -> None:
    plain = service(builds, "with base")
    for name in ("standard", "gpu", "external-secrets", "s3-irsa", "kueue"):
        assert service(builds, f"with {name}") == plain
    assert without_bundle(service(builds, "with knative")) == without_bundle(written("knative"))


def test_accounts_and_places_are_the_codes(builds: Builds) -> None:
    assert CLUSTER.namespace == DEPLOYMENT.namespace == next(iter(of_kind(builds["with base"], "Namespace")))
    for objects in builds.values():
        accounts = of_kind(objects, "ServiceAccount")
        assert set(accounts) == {CLUSTER.service_account, SERVICE_ACCOUNT, "mistere-submitter"}
    assert written()["spec"]["predictor"]["serviceAccountName"] == SERVICE_ACCOUNT


@pytest.mark.parametrize("overlay", NAMESPACES)
def test_an_overlay_stays_in_its_namespaces(builds: Builds, overlay: str) -> None:
    objects = builds[overlay]
    places = {each["metadata"].get("namespace") for each in objects if each["kind"] not in CLUSTER_SCOPED}
    assert places == NAMESPACES[overlay]
    subjects = [subject for each in of_kind(objects, "RoleBinding").values() for subject in each["subjects"]]
    assert {subject["namespace"] for subject in subjects} <= NAMESPACES[overlay]


def test_on_kind_the_runs_namespace_has_the_pipelines_account_only(builds: Builds) -> None:
    there = [each for each in builds["kind"] if each["metadata"].get("namespace") == "kubeflow"]
    assert {(each["kind"], each["metadata"]["name"]) for each in there} == {
        (kind, CLUSTER.service_account) for kind in ("ServiceAccount", "Role", "RoleBinding")
    }
    assert of_kind(builds["kind"], "RoleBinding")["mistere-deployer"]["subjects"][0]["namespace"] == "kubeflow"


def test_secrets_have_the_names_that_the_steps_use(builds: Builds) -> None:
    known = {CLUSTER.storage_secret, CLUSTER.tracking_secret, CLUSTER.webhook_secret}
    found = of_kind(builds["staging"], "ExternalSecret")
    assert set(found) == {each["spec"]["target"]["name"] for each in found.values()} == known
    assert set(of_kind(builds["production"], "ExternalSecret")) == known - {CLUSTER.storage_secret}


def test_selectors_of_the_predictor_match_its_pods(builds: Builds) -> None:
    content = written()
    labels, pod_labels = content["metadata"]["labels"], content["spec"]["predictor"]["labels"]
    ports = {port["name"]: port["containerPort"] for port in content["spec"]["predictor"]["containers"][0]["ports"]}
    assert ports == {"http1": protocol.HTTP_PORT, "grpc": protocol.GRPC_PORT}
    for objects in builds.values():
        for monitor in of_kind(objects, "ServiceMonitor").values():
            assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
            assert monitor["spec"]["endpoints"][0]["port"] == "http1"
        for budget in of_kind(objects, "PodDisruptionBudget").values():
            assert budget["spec"]["selector"]["matchLabels"].items() <= pod_labels.items()
        allowed = of_kind(objects, "NetworkPolicy")["predictor"]["spec"]
        assert allowed["podSelector"]["matchLabels"].items() <= pod_labels.items()
        assert {port["port"] for port in allowed["ingress"][0]["ports"]} == set(ports.values())


def hard(builds: Builds, build: str) -> dict[str, float]:
    quota = of_kind(builds[build], "ResourceQuota")["mistere"]["spec"]["hard"]
    return {name: number(value) for name, value in quota.items()}


@pytest.mark.parametrize(
    ("profile", "build"), [("sample", "with base"), ("gpu", "production"), ("paper", "production")]
)
def test_a_quota_has_room_for_the_profile(builds: Builds, profile: str, build: str) -> None:
    """Two encoders are fine-tuned at the same time, while two predictors and a canary answer."""
    cluster, quota = load_profile(profile).cluster, hard(builds, build)
    predictor = written()["spec"]["predictor"]["containers"][0]["resources"]
    tuned = [cluster.step("finetune_encoder", modality) for modality in ("speech", "text")]
    for steps in (*([cluster.step(stage)] for stage in stages()), tuned):
        asked = {
            "requests.cpu": sum(number(step.cpu) for step in steps) + 3 * number(predictor["requests"]["cpu"]),
            "limits.cpu": sum(number(step.cpu_limit) for step in steps) + 3 * number(predictor["limits"]["cpu"]),
            "limits.memory": sum(number(step.memory) for step in steps) + 3 * number(predictor["limits"]["memory"]),
            f"requests.{StepSettings().gpu_type}": sum(step.gpus for step in steps),
        }
        for name, value in asked.items():
            assert value <= quota[name], (profile, name)
