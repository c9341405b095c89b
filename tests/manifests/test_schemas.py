"""The built manifests are valid under the API server's schemas, with unknown fields rejected."""

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
"""The oldest that KServe takes, and the newest."""

FROM_CRDS = {"serving.kserve.io/v1beta1"}
WITHOUT_SCHEMA = {
    ("monitoring.coreos.com/v1", "ServiceMonitor"): {
        "spec.selector.matchLabels",
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
    ("external-secrets.io/v1", "ExternalSecret"): {
        "spec.refreshInterval",
        "spec.secretStoreRef.kind",
        "spec.secretStoreRef.name",
        "spec.target.name",
        "spec.dataFrom.extract.key",
    },
    ("kueue.x-k8s.io/v1beta2", "LocalQueue"): {"spec.clusterQueue"},
}
"""Operators whose schemas no package ships: the fields that their documentation has and that are used here, and no others."""


def different(builds: Builds) -> Iterator[tuple[str, Object]]:
    """Every object once, with the build that it was first seen in."""
    seen = set()
    for name, objects in builds.items():
        for content in objects:
            text = json.dumps(content, sort_keys=True)
            if text not in seen:
                seen.add(text)
                yield f"{name}: {content['kind']} {content['metadata']['name']}", content


def fields(content: Any, path: str = "") -> Iterator[str]:
    """Dotted paths of an object's leaves; labels count as one, list positions as none."""
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
def test_kubernetes_own_objects_fit(builds: Builds, version: str) -> None:
    others = {api for api, _ in WITHOUT_SCHEMA} | FROM_CRDS
    checked = 0
    for name, content in different(builds):
        if content["apiVersion"] not in others:
            assert not core_error(content, version), name
            checked += 1
    assert checked > 20


@pytest.mark.parametrize(
    ("kind", "path"),
    [("NetworkPolicy", "egres"), ("PodDisruptionBudget", "maxUnavailabel"), ("LimitRange", "limit")],
)
def test_an_unknown_field_is_refused(builds: Builds, kind: str, path: str) -> None:
    content = copy.deepcopy(next(each for each in builds["production"] if each["kind"] == kind))
    content["spec"][path] = []
    assert path in core_error(content, KUBERNETES[-1])


def test_the_inference_service_fits_the_crd_under_every_component(builds: Builds) -> None:
    if not CRD.is_file():
        pytest.skip("the KServe CRDs are not beside this checkout")
    versions = yaml.load(CRD.read_text(encoding="utf-8"), LOADER)["spec"]["versions"]
    schema = strict(next(each for each in versions if each["name"] == "v1beta1")["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    validator = jsonschema.Draft202012Validator(schema)
    services = [content for _, content in different(builds) if content["kind"] == "InferenceService"]
    assert len(services) == 2, "one as it is, one for Knative"
    for content in services:
        assert not [error.message for error in validator.iter_errors(content)]
    services[0]["spec"]["predictor"]["containers"][0]["storageURI"] = "s3://x"
    assert list(validator.iter_errors(services[0]))


def test_other_operators_objects_have_known_fields_only(builds: Builds) -> None:
    found = set()
    for name, content in different(builds):
        kind = (content["apiVersion"], content["kind"])
        if kind in WITHOUT_SCHEMA:
            found.add(kind)
            used = {path for path in fields(content) if path.startswith("spec")}
            assert used == WITHOUT_SCHEMA[kind], name
            assert set(content) == {"apiVersion", "kind", "metadata", "spec"}
    assert found == set(WITHOUT_SCHEMA)


def test_every_file_is_built() -> None:
    """A file that no kustomization names would be dead; a folder that is not in the tests would be untested."""
    assert {folder.name for folder in (MANIFESTS / "overlays").iterdir()} == set(OVERLAYS)
    assert {folder.name for folder in (MANIFESTS / "components").iterdir()} == set(COMPONENTS)
    for path in MANIFESTS.rglob("kustomization.yaml"):
        content = yaml.load(path.read_text(encoding="utf-8"), LOADER)
        named = [
            *content.get("resources", []),
            *(patch["path"] for patch in content.get("patches", []) if "path" in patch),
        ]
        beside = {each.name for each in path.parent.glob("*.yaml")} - {"kustomization.yaml"}
        assert beside == {each for each in named if each.endswith(".yaml")}, path


def test_an_overlay_is_a_few_lines() -> None:
    for name in OVERLAYS:
        text = (MANIFESTS / "overlays" / name / "kustomization.yaml").read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 40, name
