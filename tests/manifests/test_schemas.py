"""The built manifests match the API server's schemas; unknown fields are rejected."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.manifests.conftest import COMPONENTS, MANIFESTS, OVERLAYS, Builds, Object
from tests.serving.test_inference_service import CRD, LOADER, strict

KUBERNETES = ("1.32", "1.37")
"""The oldest version that KServe supports, and the newest."""

FROM_CRDS = {"serving.kserve.io/v1beta1"}
WITHOUT_SCHEMA = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): {
        "spec.selector.matchLabels",
        "spec.selector.matchExpressions.key",
        "spec.selector.matchExpressions.operator",
        "spec.endpoints.port",
        "spec.endpoints.path",
        "spec.endpoints.interval",
    },
    ("monitoring.coreos.com/v1", "PodMonitor"): {
        "spec.selector.matchLabels",
        "spec.podMetricsEndpoints.port",
        "spec.podMetricsEndpoints.path",
        "spec.podMetricsEndpoints.interval",
    },
    ("monitoring.coreos.com/v1", "PrometheusRule"): {
        "spec.groups.name",
        "spec.groups.rules.alert",
        "spec.groups.rules.expr",
        "spec.groups.rules.for",
        "spec.groups.rules.labels.severity",
        "spec.groups.rules.annotations.summary",
        "spec.groups.rules.annotations.description",
    },
    ("external-secrets.io/v1", "ExternalSecret"): {
        "spec.refreshInterval",
        "spec.secretStoreRef.kind",
        "spec.secretStoreRef.name",
        "spec.target.name",
        "spec.dataFrom.extract.key",
    },
    ("kueue.x-k8s.io/v1beta2", "LocalQueue"): {"spec.clusterQueue"},
    # config/300-clusterimagepolicy.yaml of sigstore's policy-controller, version v1beta1
    ("policy.sigstore.dev/v1beta1", "ClusterImagePolicy"): {
        "spec.mode",
        "spec.images.glob",
        "spec.authorities.name",
        "spec.authorities.key.hashAlgorithm",
        "spec.authorities.key.data",
        "spec.authorities.attestations.name",
        "spec.authorities.attestations.predicateType",
        "spec.authorities.keyless.url",
        "spec.authorities.keyless.identities.issuer",
        "spec.authorities.keyless.identities.subjectRegExp",
        "spec.authorities.ctlog.url",
        "spec.authorities.static.action",
    },
}
"""Operators whose schemas no package ships: the fields that their documentation has and that are used here, and no others."""


def distinct_objects(builds: Builds) -> Iterator[tuple[str, Object]]:
    """Yield each object once, with the first build that contains it."""
    seen = set()
    for name, objects in builds.items():
        for content in objects:
            text = json.dumps(content, sort_keys=True)
            if text not in seen:
                seen.add(text)
                yield f"{name}: {content['kind']} {content['metadata']['name']}", content


def fields(content: Any, path: str = "") -> Iterator[str]:
    """Yield the dotted paths of an object's leaves; labels count as one field, list indices are omitted."""
    if isinstance(content, dict) and not path.endswith("matchLabels"):
        for name, value in content.items():
            yield from fields(value, f"{path}.{name}" if path else name)
    elif isinstance(content, list):
        for value in content:
            yield from fields(value, path)
    else:
        yield path


def core_error(content: Object, version: str) -> str:
    try:
        kubernetes_validate.validate(content, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        return str(error.message)
    return ""


@pytest.mark.parametrize("version", KUBERNETES)
def test_builtin_objects_match_their_schema(builds: Builds, version: str) -> None:
    others = {api for api, _ in WITHOUT_SCHEMA} | FROM_CRDS
    checked = 0
    for name, content in distinct_objects(builds):
        if content["apiVersion"] not in others:
            assert not core_error(content, version), name
            checked += 1
    assert checked > 20


@pytest.mark.parametrize(
    ("kind", "path"),
    [("NetworkPolicy", "egres"), ("PodDisruptionBudget", "maxUnavailabel"), ("LimitRange", "limit")],
)
def test_unknown_field_is_rejected(builds: Builds, kind: str, path: str) -> None:
    content = copy.deepcopy(next(each for each in builds["production"] if each["kind"] == kind))
    content["spec"][path] = []
    assert path in core_error(content, KUBERNETES[-1])


def test_inference_service_matches_the_crd_with_each_component(builds: Builds) -> None:
    if not CRD.is_file():
        pytest.skip("the KServe CRDs are not beside this checkout")
    versions = yaml.load(CRD.read_text(encoding="utf-8"), LOADER)["spec"]["versions"]
    schema = strict(next(each for each in versions if each["name"] == "v1beta1")["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    validator = jsonschema.Draft202012Validator(schema)
    services = [content for _, content in distinct_objects(builds) if content["kind"] == "InferenceService"]
    modes = {content["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] for content in services}
    assert modes == {"Standard", "Knative"}
    for content in services:
        assert not [error.message for error in validator.iter_errors(content)]
    services[0]["spec"]["predictor"]["containers"][0]["storageURI"] = "s3://x"
    assert list(validator.iter_errors(services[0]))


def test_operator_objects_have_known_fields_only(builds: Builds) -> None:
    used: dict[tuple[str, str], set[str]] = {}
    for name, content in distinct_objects(builds):
        kind = (content["apiVersion"], content["kind"])
        if kind in WITHOUT_SCHEMA:
            paths = {path for path in fields(content) if path.startswith("spec")}
            assert paths <= WITHOUT_SCHEMA[kind], name
            used.setdefault(kind, set()).update(paths)
            assert set(content) == {"apiVersion", "kind", "metadata", "spec"}
    assert used == WITHOUT_SCHEMA


def test_each_manifest_file_is_built() -> None:
    """Kustomizations name each file, and the tests build each folder: no manifest is unused or untested."""
    assert {folder.name for folder in (MANIFESTS / "overlays").iterdir()} == set(OVERLAYS)
    assert {folder.name for folder in (MANIFESTS / "components").iterdir()} == set(COMPONENTS)
    for path in MANIFESTS.rglob("kustomization.yaml"):
        content = yaml.load(path.read_text(encoding="utf-8"), LOADER)
        named = [
            *content.get("resources", []),
            *(patch["path"] for patch in content.get("patches", []) if "path" in patch),
        ]
        files = {file.name for file in path.parent.glob("*.yaml")} - {"kustomization.yaml"}
        assert files == {file for file in named if file.endswith(".yaml")}, path


def test_overlays_have_at_most_forty_lines() -> None:
    for name in OVERLAYS:
        text = (MANIFESTS / "overlays" / name / "kustomization.yaml").read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 40, name
