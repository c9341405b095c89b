"""The code and the manifests use the same names."""

from __future__ import annotations

import copy
import re
from typing import Any, Literal

import pytest
import yaml

from mistere.artifacts.signing import VERIFYING_KEY_VARIABLE
from mistere.common.paths import PROJECT_ROOT
from mistere.common.public_keys import parse_public_keys
from mistere.config.cluster import ClusterConfig, StepSettings
from mistere.config.deployment import DeploymentConfig
from mistere.config.stages import stages
from mistere.kubernetes.image_signatures import SBOM_PREDICATE
from mistere.kubernetes.settings_keys import SETTINGS_KEYS, SETTINGS_MAP
from mistere.serving import protocol
from mistere.serving.kserve.inference_service import SERVICE_ACCOUNT, inference_service
from pipelines.profiles import load_profile
from tests.compile.test_placement import parse_quantity
from tests.manifests.conftest import COMPONENTS, Builds, of_kind

CLUSTER, DEPLOYMENT = ClusterConfig(), DeploymentConfig()
NAMESPACES = {"kind": {"mistere", "kubeflow"}, "staging": {"mistere-staging"}, "production": {"mistere"}}
ANY_CLIENT = ("staging", "production", "with any-client")
CLUSTER_SCOPED = {"Namespace"}
DIGEST = "0" * 64
BUNDLE_FIELDS = {"image", "mistere/bundle", "mistere/bundle-digest", "mistere/revision"}


def generated_service(mode: Literal["standard", "knative"] = "standard") -> dict[str, Any]:
    location = f"s3://BUCKET/mistere/artifacts/ModelBundle/{DIGEST}"
    return inference_service(location, DIGEST, DeploymentConfig(mode=mode), "mistere/predictor-python:src-000000000000")


def service(builds: Builds, build: str) -> dict[str, Any]:
    return of_kind(builds[build], "InferenceService")[DEPLOYMENT.service]


def without_bundle(content: Any) -> Any:
    """Return the content without the values that depend on image and bundle."""
    if isinstance(content, list):
        return [without_bundle(value) for value in content]
    if not isinstance(content, dict):
        return content
    kept = {key: without_bundle(value) for key, value in content.items()}
    kept |= dict.fromkeys(BUNDLE_FIELDS & set(kept), "")
    return kept | {"args": kept["args"][1:]} if "args" in kept else kept


def test_inference_service_matches_the_generated_one(builds: Builds) -> None:
    committed, generated = service(builds, "with base"), generated_service()
    text = yaml.safe_dump(generated, sort_keys=False, width=120)
    assert without_bundle(committed) == without_bundle(generated), (
        f"base/inference-service/inference-service.yaml is\n{text}"
    )
    predictor = committed["spec"]["predictor"]
    assert predictor["containers"][0]["args"][0] == f"s3://BUCKET/mistere/artifacts/ModelBundle/{DIGEST}"
    assert predictor["labels"]["mistere/bundle"] == DIGEST[:12]


def test_components_change_the_settings_of_their_mode_only(builds: Builds) -> None:
    plain = service(builds, "with base")
    for name in set(COMPONENTS) - {"knative", "signed-images"}:
        assert service(builds, f"with {name}") == plain
    assert without_bundle(service(builds, "with knative")) == without_bundle(generated_service("knative"))


def test_signed_images_admit_what_the_workflow_or_the_key_signed(builds: Builds) -> None:
    """The images, the statement and the workflow that the policy names are those that are made here."""
    objects = builds["with signed-images"]
    assert of_kind(objects, "Namespace")["mistere"]["metadata"]["labels"]["policy.sigstore.dev/include"] == "true"
    policies = of_kind(objects, "ClusterImagePolicy")
    spec, sboms = (policies[name]["spec"] for name in ("mistere-images", "mistere-sboms"))
    key, workflow = spec["authorities"]
    assert spec["mode"] == "enforce" and "ctlog" not in key  # with a key, no transparency log has the signature
    assert [glob["glob"] for glob in spec["images"]] == ["registry.example.org/mistere/**"]
    assert parse_public_keys(key["key"]["data"], "the policy")
    # policy-controller's ValidatePolicy (pkg/webhook/validator.go): an authority with attestations checks them instead of the
    # signature, one authority of a policy is enough, and every policy that names the image must hold.
    assert "attestations" not in key and "attestations" not in workflow
    for authority in sboms["authorities"]:
        assert [one["predicateType"] for one in authority["attestations"]] == [SBOM_PREDICATE]
    authorities = [{name: one[name] for name in one if name != "attestations"} for one in sboms["authorities"]]
    assert {**sboms, "authorities": authorities} == spec, "the same images by the same authorities"
    identity = workflow["keyless"]["identities"][0]["subjectRegExp"]
    assert (PROJECT_ROOT / ".github" / "workflows" / "images.yaml").is_file()
    subject = "https://github.com/OWNER/REPOSITORY/.github/workflows/images.yaml@refs/"
    assert re.search(identity, f"{subject}tags/v1.2.0") and not re.search(identity, f"{subject}heads/main")
    content = copy.deepcopy(service(builds, "with signed-images"))
    environment = content["spec"]["predictor"]["containers"][0]["env"]
    added = [one for one in environment if one["name"] == VERIFYING_KEY_VARIABLE]
    assert len(added) == 1 and parse_public_keys(added[0]["value"], "the patch")
    environment.remove(added[0])
    assert content == service(builds, "with base")


def test_namespaces_and_accounts_match_the_code(builds: Builds) -> None:
    assert CLUSTER.namespace == DEPLOYMENT.namespace == next(iter(of_kind(builds["with base"], "Namespace")))
    for build, objects in builds.items():
        accounts = set(of_kind(objects, "ServiceAccount"))
        named = {CLUSTER.service_account, SERVICE_ACCOUNT, "mistere-submitter"}
        assert accounts == named | ({"default-editor"} if build in ANY_CLIENT else set())
    assert generated_service()["spec"]["predictor"]["serviceAccountName"] == SERVICE_ACCOUNT


@pytest.mark.parametrize("overlay", NAMESPACES)
def test_overlay_stays_in_its_namespaces(builds: Builds, overlay: str) -> None:
    objects = builds[overlay]
    namespaces = {content["metadata"].get("namespace") for content in objects if content["kind"] not in CLUSTER_SCOPED}
    assert namespaces == NAMESPACES[overlay]
    subjects = [subject for content in of_kind(objects, "RoleBinding").values() for subject in content["subjects"]]
    assert {subject["namespace"] for subject in subjects} <= NAMESPACES[overlay]


def test_kind_run_namespace_has_the_pipeline_account_and_settings_only(builds: Builds) -> None:
    objects = [content for content in builds["kind"] if content["metadata"].get("namespace") == "kubeflow"]
    assert {(content["kind"], content["metadata"]["name"]) for content in objects} == {
        *((kind, CLUSTER.service_account) for kind in ("ServiceAccount", "Role", "RoleBinding")),
        ("ConfigMap", SETTINGS_MAP),
    }
    assert of_kind(builds["kind"], "RoleBinding")["mistere-deployer"]["subjects"][0]["namespace"] == "kubeflow"


def test_runs_of_any_client_have_the_rights_of_those_of_mistere(builds: Builds) -> None:
    """Kubeflow Pipelines gives runs without a service account ``pipeline-runner``, and for several users ``default-editor``
    (DEFAULTPIPELINERUNNERSERVICEACCOUNT in its manifests, base/installs/multi-user/api-service/params.env)."""
    for build, account in {"kind": "pipeline-runner", **dict.fromkeys(ANY_CLIENT, "default-editor")}.items():
        for content in of_kind(builds[build], "RoleBinding").values():
            subjects = {one["name"]: one["namespace"] for one in content["subjects"]}
            assert subjects.get(account) == subjects.get(CLUSTER.service_account), (build, content["metadata"]["name"])
    for content in of_kind(builds["production"], "ServiceAccount").values():
        role = content["metadata"].get("annotations", {}).get("eks.amazonaws.com/role-arn", "")
        steps = content["metadata"]["name"] in {"default-editor", CLUSTER.service_account}
        assert role.endswith("/mistere-pipeline") == steps


def test_secret_names_match_the_steps(builds: Builds) -> None:
    expected = {CLUSTER.storage_secret, CLUSTER.tracking_secret, CLUSTER.webhook_secret}
    secrets = of_kind(builds["staging"], "ExternalSecret")
    assert set(secrets) == {secret["spec"]["target"]["name"] for secret in secrets.values()} == expected
    assert set(of_kind(builds["production"], "ExternalSecret")) == expected - {CLUSTER.storage_secret}


def test_predictor_selectors_match_its_pods(builds: Builds) -> None:
    content = generated_service()
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


def quota_limits(builds: Builds, build: str) -> dict[str, float]:
    quota = of_kind(builds[build], "ResourceQuota")["mistere"]["spec"]["hard"]
    return {name: parse_quantity(value) for name, value in quota.items()}


@pytest.mark.parametrize(
    ("profile", "build"), [("sample", "with base"), ("gpu", "production"), ("paper", "production")]
)
def test_quota_fits_the_profile(builds: Builds, profile: str, build: str) -> None:
    """Two encoders are fine-tuned concurrently while two predictors and a canary run."""
    cluster, quota = load_profile(profile).cluster, quota_limits(builds, build)
    predictor = generated_service()["spec"]["predictor"]["containers"][0]["resources"]
    tuned = [cluster.step("finetune_encoder", modality) for modality in ("speech", "text")]
    for steps in (*([cluster.step(stage)] for stage in stages()), tuned):
        requested = {
            "requests.cpu": sum(parse_quantity(step.cpu) for step in steps)
            + 3 * parse_quantity(predictor["requests"]["cpu"]),
            "limits.cpu": sum(parse_quantity(step.cpu_limit) for step in steps)
            + 3 * parse_quantity(predictor["limits"]["cpu"]),
            "limits.memory": sum(parse_quantity(step.memory) for step in steps)
            + 3 * parse_quantity(predictor["limits"]["memory"]),
            f"requests.{StepSettings().gpu_type}": sum(step.gpus for step in steps),
        }
        for name, value in requested.items():
            assert value <= quota[name], (profile, name)


def test_every_overlay_brings_the_config_map_that_completes_runs(builds: Builds) -> None:
    for overlay, namespace in {"kind": "kubeflow", "staging": "mistere-staging", "production": "mistere"}.items():
        maps = [one for one in builds[overlay] if one["kind"] == "ConfigMap" and "dashboard.json" not in one["data"]]
        assert [(one["metadata"]["name"], one["metadata"]["namespace"]) for one in maps] == [(SETTINGS_MAP, namespace)]
        values = maps[0].get("data") or {}
        assert set(values) <= set(SETTINGS_KEYS)
        predictor = {one["metadata"]["namespace"] for one in builds[overlay] if one["kind"] == "NetworkPolicy"} - {
            "kubeflow"
        }
        assert {values.get("MISTERE_NAMESPACE") or DEPLOYMENT.namespace} == predictor
