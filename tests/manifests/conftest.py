"""Fixtures: each overlay, and the InferenceService with each component, built once by kubectl."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mistere.common.paths import PROJECT_ROOT

MANIFESTS = PROJECT_ROOT / "manifests"
OVERLAYS = ("kind", "staging", "production")
COMPONENTS = (
    "alerts",
    "any-client",
    "any-https",
    "api-server-16443",
    "api-server-8443",
    "dns-node-local",
    "dns-openshift",
    "external-secrets",
    "gateway",
    "gpu",
    "hub",
    "knative",
    "kueue",
    "s3-irsa",
    "shadow",
    "signed-images",
    "standard",
    "store",
    "tracking",
)
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Object = dict[str, Any]
Builds = dict[str, list[Object]]


def kustomize(folder: Path) -> list[Object]:
    """Return the objects that ``kubectl apply -k`` sends."""
    kubectl = shutil.which("kubectl", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert kubectl, "kubectl is in requirements-dev.lock: make setup-dev"
    built = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    assert built.returncode == 0, f"{folder}: {built.stderr}"
    assert not built.stderr, f"{folder}: {built.stderr}"
    return list(yaml.load_all(built.stdout, LOADER))


def _with_predictor(folder: Path, components: tuple[str, ...]) -> list[Object]:
    """Build the base and the InferenceService with components, as an overlay for GitOps releases does."""
    relative = [os.path.relpath(MANIFESTS / "base" / part, folder) for part in ("", "inference-service")]
    content = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": relative,
        "components": [os.path.relpath(MANIFESTS / "components" / name, folder) for name in components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return kustomize(folder)


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Builds:
    """Objects by build: an overlay's name, or ``with NAME`` for the InferenceService with one component (``with base`` for none)."""
    objects = {name: kustomize(MANIFESTS / "overlays" / name) for name in OVERLAYS}
    for name in ("base", *COMPONENTS):
        folder = tmp_path_factory.mktemp(name)
        objects[f"with {name}"] = _with_predictor(folder, () if name == "base" else (name,))
    return objects


def of_kind(objects: list[Object], kind: str) -> dict[str, Object]:
    """Return the objects of a kind by name."""
    return {content["metadata"]["name"]: content for content in objects if content["kind"] == kind}
