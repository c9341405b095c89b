"""The manifest is valid under KServe's CRD, with unknown fields rejected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import ValidationError

from mistere.common.errors import UsageError
from mistere.common.public_keys import pem
from mistere.config.base import Toleration
from mistere.config.deployment import DeploymentConfig
from mistere.kubernetes.secret_keys import STORAGE_VARIABLES
from mistere.serving.kserve.inference_service import candidate_of, inference_service, revision_of
from mistere.serving.kserve.supported_settings import check_support, stream_limit
from pipelines.profiles import load_profile

CRD = Path(__file__).resolve().parents[2].parent / "shared" / "crds" / "serving.kserve.io_inferenceservices.yaml"
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
DIGEST = "a" * 64
LOCATION = f"s3://models/mistere/artifacts/ModelBundle/{DIGEST}"
IMAGE = "registry.example/mistere-predictor@sha256:" + "b" * 64


EVERYTHING: dict[str, Any] = {
    "min_replicas": 2,
    "max_replicas": 5,
    "scale_target": 70,
    "gpus": 1,
    "storage_secret": "mistere-storage",
    "image_pull_secret": "registry",
    "env": {"AWS_REGION": "eu-central-1"},
}
STANDARD = DeploymentConfig(
    mode="standard",
    scale_metric="cpu",
    node_selector={"pool": "gpu"},
    tolerations=[Toleration(key="nvidia.com/gpu", effect="NoSchedule")],
    **EVERYTHING,
)
KNATIVE = DeploymentConfig(mode="knative", scale_metric="concurrency", **EVERYTHING)


# What `cluster.env` adds to `deployment.env`.
FORWARDED = load_profile(
    "tiny",
    [
        "deployment.mode=knative",
        "cluster.env={HF_TOKEN: {secret: hub, key: token}, HTTPS_PROXY: 'http://proxy:3128', NO_PROXY: {config_map: net, key: none}, "
        "SSL_CERT_FILE: {config_map: company.ca, key: ca.crt}, AWS_CA_BUNDLE: {config_map: company.ca, key: aws.crt}, "
        "REQUESTS_CA_BUNDLE: {secret: ca, key: ca.crt}}",
    ],
).deployment


def manifest(config: DeploymentConfig | None = None, share: int | None = None) -> dict[str, Any]:
    return inference_service(LOCATION, DIGEST, config or DeploymentConfig(), IMAGE, share)


def strict(schema: Any) -> Any:
    """The schema as the API server applies it: unknown fields are rejected, unless the schema preserves them."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    closed = {
        key: {name: strict(value) for name, value in content.items()} if key == "properties" else strict(content)
        for key, content in schema.items()
    }
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    return closed


@pytest.fixture(scope="module")
def validator() -> Any:
    if not CRD.is_file():
        pytest.skip("the KServe CRDs are not beside this checkout")
    versions = yaml.load(CRD.read_text(encoding="utf-8"), LOADER)["spec"]["versions"]
    schema = next(version for version in versions if version["name"] == "v1beta1")["schema"]["openAPIV3Schema"]
    closed = strict(schema)
    closed["properties"]["metadata"] = {"type": "object"}
    return jsonschema.Draft202012Validator(closed)


@pytest.mark.parametrize(
    "content",
    [
        manifest(),
        manifest(STANDARD),
        manifest(KNATIVE),
        manifest(KNATIVE, 20),
        candidate_of(manifest(STANDARD)),
        manifest(FORWARDED),
    ],
    ids=["default", "standard", "knative", "share", "candidate", "forwarded"],
)
def test_the_manifest_is_valid_under_the_crd(validator: Any, content: dict[str, Any]) -> None:
    assert not [error.message for error in validator.iter_errors(content)]


def test_the_validator_refuses_unknown_fields(validator: Any) -> None:
    wrong = manifest()
    wrong["spec"]["predictor"]["containers"][0]["storageURI"] = "s3://x"
    assert list(validator.iter_errors(wrong))


def test_the_manifest_serves_the_bundle_with_restrictions() -> None:
    content = manifest()
    assert content["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Standard"
    predictor = content["spec"]["predictor"]
    container = predictor["containers"][0]
    assert container["args"][0] == LOCATION
    assert container["image"] == IMAGE
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert predictor["securityContext"]["runAsNonRoot"] is True
    assert predictor["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"
    assert container["startupProbe"]["failureThreshold"] * container["startupProbe"]["periodSeconds"] >= 120
    assert set(container["resources"]) == {"requests", "limits"}
    assert not any(word in str(content).lower() for word in ("secret", "password", "aws_"))


def test_predictor_verifies_the_bundle_with_the_configured_key() -> None:
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

    key = pem(generate_private_key(SECP256R1()).public_key()).decode()
    container = manifest(STANDARD.model_copy(update={"bundle_key": key}))["spec"]["predictor"]["containers"][0]
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert environment["MISTERE_VERIFYING_KEY"] == key
    container = manifest(STANDARD)["spec"]["predictor"]["containers"][0]
    assert "MISTERE_VERIFYING_KEY" not in {entry["name"] for entry in container["env"]}


def test_a_location_without_the_digest_is_rejected() -> None:
    with pytest.raises(UsageError, match="does not end with"):
        inference_service("s3://models/mistere/current", DIGEST, DeploymentConfig(), IMAGE)


def test_secrets_are_named_and_never_written() -> None:
    container = manifest(STANDARD)["spec"]["predictor"]["containers"][0]
    environment = {entry["name"]: entry for entry in container["env"]}
    assert environment["AWS_REGION"]["value"] == "eu-central-1", "a setting replaces the secret's key"
    assert STORAGE_VARIABLES["AWS_REGION"] not in environment
    for key, variable in STORAGE_VARIABLES.items():
        if key != "AWS_REGION":
            reference = {"name": "mistere-storage", "key": key, "optional": True}
            assert environment[variable] == {"name": variable, "valueFrom": {"secretKeyRef": reference}}
    with pytest.raises(ValidationError, match="looks like a secret") as error:
        DeploymentConfig(env={"AWS_SECRET_ACCESS_KEY": "hush"})
    assert "hush" not in str(error.value)


def test_variables_of_the_steps_reach_the_predictor_by_name_and_reference() -> None:
    predictor = manifest(FORWARDED)["spec"]["predictor"]
    container = predictor["containers"][0]
    environment = {entry.pop("name"): entry for entry in container["env"]}
    authorities = "/var/run/mistere/authorities"
    assert environment["HF_TOKEN"] == {
        "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token", "optional": False}}
    }
    assert environment["NO_PROXY"] == {
        "valueFrom": {"configMapKeyRef": {"name": "net", "key": "none", "optional": False}}
    }
    assert environment["HTTPS_PROXY"] == {"value": "http://proxy:3128"}
    assert environment["SSL_CERT_FILE"] == {"value": f"{authorities}/config-map-company.ca/ca.crt"}
    assert environment["AWS_CA_BUNDLE"] == {"value": f"{authorities}/config-map-company.ca/aws.crt"}
    assert environment["REQUESTS_CA_BUNDLE"] == {"value": f"{authorities}/secret-ca/ca.crt"}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"] if mount.get("readOnly")}
    volumes = {mounts[volume.pop("name")]: volume for volume in predictor["volumes"][2:]}
    assert volumes == {
        f"{authorities}/config-map-company.ca": {"configMap": {"name": "company.ca"}},
        f"{authorities}/secret-ca": {"secret": {"secretName": "ca"}},
    }


def test_knative_manifests_have_no_field_that_knative_rejects() -> None:
    predictor = manifest(KNATIVE)["spec"]["predictor"]
    container = predictor["containers"][0]
    refused = {"securityContext", "terminationGracePeriodSeconds", "nodeSelector", "tolerations", "deploymentStrategy"}
    assert not refused & set(predictor) and len(container["ports"]) == 1 and "startupProbe" not in container
    assert container["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert predictor["annotations"]["serving.knative.dev/progress-deadline"] == "120s"


def test_nothing_ends_a_stream_of_live_audio_but_what_is_set() -> None:
    """KServe's own default is 60 s; 0 is no limit in an HTTPRoute (Standard mode), and Knative's default of 300 s there."""

    def timeout(**settings: object) -> int:
        return int(manifest(DeploymentConfig.model_validate(settings))["spec"]["predictor"]["timeout"])

    assert (timeout(mode="standard"), timeout(mode="knative")) == (0, 300)
    assert timeout(mode="standard", request_timeout=90) == timeout(mode="knative", request_timeout=90) == 90


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["standard"], ""),
        (["local", "deployment.request_timeout=60"], ""),
        (["standard", "deployment.request_timeout=60"], "ends each stream of live audio after 60 s; 0 lets it last."),
        (["knative"], "Knative ends each stream of live audio after 300 s (deployment.request_timeout): deploy with"),
        (
            ["knative", "deployment.request_timeout=900"],
            "after 900 s (deployment.request_timeout); more than 600 s need max-rev",
        ),
        (["knative", "deployment.predictor.max_streams=0"], ""),
        (["knative", "modalities=[text]"], ""),
    ],
)
def test_what_cuts_streams_is_said_before_a_run(settings: list[str], sentence: str) -> None:
    found = stream_limit(load_profile("tiny", [f"deployment.mode={settings[0]}", *settings[1:]]))
    assert found == sentence == "" or (sentence and sentence in found)


def test_standard_mode_keeps_all_pods_during_a_rollout() -> None:
    predictor = manifest(STANDARD)["spec"]["predictor"]
    assert predictor["deploymentStrategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert predictor["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert predictor["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_the_revision_depends_on_the_pod_specification_only() -> None:
    same = STANDARD.model_copy(update={"min_replicas": 3, "max_replicas": 9, "scale_target": 50})
    other = STANDARD.model_copy(update={"memory": "8Gi"})
    assert revision_of(manifest(STANDARD)) == revision_of(manifest(same)) != revision_of(manifest(other))
    assert revision_of(manifest(KNATIVE, 20)) == revision_of(manifest(KNATIVE))
    assert revision_of({"spec": {"predictor": {}}}) == ""


def test_another_bundle_changes_the_predictor_only() -> None:
    other = inference_service(LOCATION.replace("a" * 64, "c" * 64), "c" * 64, STANDARD, IMAGE)
    assert other["metadata"] == manifest(STANDARD)["metadata"], "KServe would restart the pods that serve"


def test_a_candidate_is_one_pod_without_traffic() -> None:
    service = manifest(STANDARD)
    candidate = candidate_of(service)
    assert candidate["metadata"]["name"] == "mistere-candidate"
    assert candidate["metadata"]["labels"]["networking.kserve.io/visibility"] == "cluster-local"
    predictor = candidate["spec"]["predictor"]
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (1, 1) and "scaleMetric" not in predictor
    assert predictor["containers"] == service["spec"]["predictor"]["containers"]
    assert revision_of(candidate) == revision_of(service)


@pytest.mark.parametrize(
    ("settings", "store", "expected"),
    [
        ({"mode": "standard"}, "/srv/store", "needs a store that the cluster's pods can read"),
        ({"canary_percent": 10}, "/srv/store", "a local deployment has no traffic"),
        ({"mode": "standard", "canary_percent": 10}, "s3://b/p", "needs deployment.mode=knative"),
        ({"mode": "standard", "min_replicas": 0}, "s3://b/p", "Standard mode keeps at least one pod"),
        ({"mode": "standard", "scale_metric": "rps"}, "s3://b/p", "use cpu or memory"),
        ({"mode": "knative", "scale_metric": "cpu"}, "s3://b/p", "use concurrency or rps"),
        ({"mode": "knative", "node_selector": {"gpu": "yes"}}, "s3://b/p", "need deployment.mode=standard"),
        ({"mode": "knative", "service": "m" * 60}, "s3://b/p", "may have at most 43 characters"),
    ],
)
def test_settings_that_a_mode_does_not_support_are_rejected(
    settings: dict[str, Any], store: str, expected: str
) -> None:
    with pytest.raises(UsageError, match=expected):
        check_support(DeploymentConfig.model_validate(settings), store)
