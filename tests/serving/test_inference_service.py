"""The manifest against the CRD that the cluster validates it with, unknown fields refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from components.core.config.deployment import DeploymentConfig
from components.core.errors import UsageError
from components.core.serving.inference_service import inference_service

CRD = Path(__file__).resolve().parents[2].parent / "shared" / "crds" / "serving.kserve.io_inferenceservices.yaml"
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
DIGEST = "a" * 64
LOCATION = f"s3://models/mistere/artifacts/ModelBundle/{DIGEST}"
IMAGE = "registry.example/mistere-predictor@sha256:" + "b" * 64


def manifest() -> dict[str, Any]:
    return inference_service(LOCATION, DIGEST, DeploymentConfig(), IMAGE)


def strict(schema: Any) -> Any:
    """The schema as an API server reads it: an object's unknown fields are refused unless it says otherwise."""
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


def test_it_fits_the_crd(validator: Any) -> None:
    assert not [error.message for error in validator.iter_errors(manifest())]


def test_the_validator_refuses_unknown_fields(validator: Any) -> None:
    wrong = manifest()
    wrong["spec"]["predictor"]["containers"][0]["storageURI"] = "s3://x"
    assert list(validator.iter_errors(wrong))


def test_it_serves_that_bundle_safely() -> None:
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


def test_a_location_without_the_digest_is_refused() -> None:
    with pytest.raises(UsageError, match="does not end with"):
        inference_service("s3://models/mistere/current", DIGEST, DeploymentConfig(), IMAGE)
