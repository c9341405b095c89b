"""Image references must be immutable; each image contains the locked packages that its code imports."""

from __future__ import annotations

import ast
import functools
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mistere.common.digests.code import BUILD_FILES, closure, statements
from mistere.common.errors import UsageError
from mistere.common.paths import PROJECT_ROOT
from mistere.kubernetes.images import IMAGES_LOCK, ROLES, ImageReference, image, read_images
from pipelines.images import known_images, lock_text, source_hash

DIGEST = f"sha256:{'a' * 64}"
DOCKER = PROJECT_ROOT / "docker"


@pytest.mark.parametrize(
    "text",
    [
        "localhost/mistere/train-python:src-0123456789ab",
        "localhost/mistere/train-python:src-0123456789ab-cu130",
        f"registry.example.org:5000/team/train-python@{DIGEST}",
        f"registry.example.org/team/train-python:src-0123456789ab@{DIGEST}",
    ],
)
def test_immutable_reference_is_accepted(text: str) -> None:
    assert str(ImageReference.parse(text, "train")) == text


@pytest.mark.parametrize(
    "text",
    [
        "mistere/train-python:latest",
        "mistere/train-python",
        "registry.example.org:5000/team/train-python:v1.2.0",
        "mistere/train-python:src-0123456789abcdef",
        "mistere/train-python:src-main",
    ],
)
def test_mutable_reference_is_rejected_with_the_reason(text: str) -> None:
    with pytest.raises(UsageError) as error:
        ImageReference.parse(text, "train in images.lock.yaml")
    message = str(error.value)
    assert "steps cached under this name would be reused" in message and "make compile" in message
    assert text in message and "\n" not in message


@pytest.mark.parametrize("text", ["", "Not An Image", "mistere/train@sha256:abc", "None"])
def test_invalid_reference_is_rejected(text: str) -> None:
    with pytest.raises(UsageError):
        ImageReference.parse(text, "train in images.lock.yaml")


@pytest.mark.parametrize("content", ["", "images: []", "images: {train: x", "images: {pipeline: a}", "other: 1"])
def test_lock_file_without_images_is_rejected(content: str, tmp_path: Path) -> None:
    path = tmp_path / "images.lock.yaml"
    path.write_text(content)
    with pytest.raises(UsageError) as error:
        read_images(path)
    assert "make compile" in str(error.value) and "\n" not in str(error.value)


def test_unknown_role_error_suggests_a_role() -> None:
    assert image("train") == str(read_images(IMAGES_LOCK)["train"])
    with pytest.raises(UsageError, match="did you mean 'predictor'"):
        image("predictors")


def test_lock_text_keeps_digests_of_the_current_source_only() -> None:
    train = known_images()["train"]
    current = replace(
        train, source=source_hash(), digest=DIGEST, torch="cu130", repository="registry.example.org/a/train"
    )
    assert f"train: registry.example.org/a/train:src-{source_hash()}-cu130@{DIGEST}\n" in lock_text({"train": current})
    stale = replace(current, source="0" * 12)
    assert f"train: registry.example.org/a/train:src-{source_hash()}-cu130\n" in lock_text({"train": stale})


@pytest.mark.parametrize("option", ["--digest=trainer=sha256:0", "--digest=train=sha256:0", "--torch=train=CUDA 13"])
def test_invalid_option_is_rejected_with_one_sentence(option: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "pipelines.images", option],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2 and result.stderr.startswith("images: ") and result.stderr.count("\n") == 1


def read_pins(path: Path) -> dict[str, str]:
    """Return the versions of a lock file by package."""
    lines = [line.partition("#")[0].strip() for line in path.read_text().splitlines()]
    pairs = [line.split("==") for line in lines if line]
    return {canonicalize_name(name): version for name, version in pairs}


@pytest.mark.parametrize("role", ROLES)
def test_image_lock_is_a_subset_of_the_environment_lock(role: str) -> None:
    image_pins, environment_pins = read_pins(DOCKER / f"{role}.lock"), read_pins(PROJECT_ROOT / "requirements.lock")
    assert image_pins.items() <= environment_pins.items()
    group = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["dependency-groups"][role]
    assert {canonicalize_name(Requirement(name).name) for name in group} <= image_pins.keys()


EXTRAS = {"bitsandbytes", "codecarbon", "onnx", "onnxruntime", "pynvml"}
"""Extras: if one is missing, the error names the package to install, or the energy is estimated instead of measured."""
UNUSED = {"predictor": {"dvc"}}
"""Imported by functions that read datasets, which the image contains and does not call."""


@functools.cache
def imported_packages(role: str) -> set[str]:
    """Return the third-party packages that an image's modules import, also inside functions."""
    components = PROJECT_ROOT / "components"
    stages = {
        path.parent.name
        for path in components.glob("*/component.py")
        if re.search(rf'base_image=image\("{role}"\)', path.read_text())
    }
    modules = {f"components.{stage}.run" for stage in stages}
    modules |= {f"components.{stage}.component" for stage in stages}
    if role == "predictor":
        modules = {"mistere.predictor.server"}
    if role == "train":  # deploy_model starts the predictor as a child process for its smoke test
        modules.add("mistere.predictor.server")
    files = {file for module in modules for file in closure(module, computing=False).values()}
    names: set[str] = set()
    for file in files:
        for node in statements(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module)
    tops = {name.partition(".")[0] for name in names}
    return tops - sys.stdlib_module_names - {"mistere", "components", "pipelines"}


@pytest.mark.parametrize(
    "role", [pytest.param(role, marks=pytest.mark.long if role == "train" else []) for role in ROLES]
)
def test_image_contains_the_packages_its_code_imports(role: str) -> None:
    providers = packages_distributions()
    installed = read_pins(DOCKER / f"{role}.lock").keys()
    for name in imported_packages(role) - EXTRAS - UNUSED.get(role, set()):
        assert {canonicalize_name(provider) for provider in providers[name]} & installed, f"{role} lacks {name}"


def test_code_layer_contains_each_first_party_package() -> None:
    packages = {path.parent.name for path in PROJECT_ROOT.glob("*/__init__.py")} - {"tests"}
    dockerfile = (DOCKER / "Dockerfile").read_text()
    code = dockerfile.partition(" AS code\n")[2].partition("\nFROM ")[0]
    assert {"mistere", "components", "pipelines"} <= packages
    assert set(re.findall(r"^COPY (\w+) \1$", code, re.MULTILINE)) == packages
    compiled = re.search(r"^RUN python3 -m compileall .* unchecked-hash (.+)$", code, re.MULTILINE)
    assert compiled is not None and set(compiled[1].split()) == packages
    context_packages = set(re.findall(r"^!(\w+)$", (PROJECT_ROOT / ".dockerignore").read_text(), re.MULTILINE))
    assert packages <= context_packages, "the build context lacks a package"


def test_pipeline_image_contains_no_torch() -> None:
    assert not {"torch", "transformers"} & read_pins(DOCKER / "pipeline.lock").keys()
    assert not {"torch", "transformers"} & imported_packages("pipeline")


def test_bake_file_matches_dockerfile_and_roles() -> None:
    bake, dockerfile = (DOCKER / "docker-bake.hcl").read_text(), (DOCKER / "Dockerfile").read_text()
    for roles in re.findall(r"(?:targets|role) = \[(.*?)\]", bake):
        assert tuple(re.findall(r'"(\w+)"', roles)) == ROLES
    assert set(ROLES) <= set(re.findall(r"^FROM \S+ AS (\w+)$", dockerfile, re.MULTILINE))
    build_arguments = {
        word for line in re.findall(r"^ARG (.+)$", dockerfile, re.MULTILINE) for word in line.split("=")[0].split()
    }
    assert set(re.findall(r"^    ([A-Z_]+) += ", bake, re.MULTILINE)) == build_arguments
    base = r"docker\.io/library/python:3\.11-slim-bookworm"
    assert re.search(base, bake) and re.search(base, dockerfile)


@pytest.mark.parametrize("file", ["docs/guides/images.md", "docs/tutorials/kind.md", ".github/workflows/images.yaml"])
def test_commands_that_bake_images_pass_the_code_state(file: str) -> None:
    """Without a commit in the image, the gate holds the models of runs that other clients than mistere start."""
    before, found, _ = (DOCKER.parent / file).read_text(encoding="utf-8").partition("docker buildx bake ")
    assert found and all(re.search(rf"\b{name}=\$", before) for name in ("COMMIT", "VERSION", "TAG"))
    if file.startswith("docs/"):  # a workflow builds a clean clone
        assert re.search(r"\bVERSION=\$\(\S*python -m pipelines\.images --version\)", before), "-dirty for code only"


def test_images_run_as_a_non_root_user_and_have_labels() -> None:
    dockerfile = (DOCKER / "Dockerfile").read_text()
    for role in ROLES:
        stage = dockerfile.partition(f" AS {role}\n")[2].partition("\nFROM ")[0]
        assert "USER 10001:10001" in stage
        assert "org.opencontainers.image.revision" in stage and "org.opencontainers.image.version" in stage


def test_the_predictor_alone_has_libopus_in_its_image_and_in_its_sbom() -> None:
    """Live audio in Opus needs it; the version is pinned, Debian's security updates of it are not."""
    dockerfile = (DOCKER / "Dockerfile").read_text()
    installing = {
        stage.partition("\n")[0]: re.findall(r"debian_install\.sh '([^']+)'", stage)
        for stage in re.split(r"^FROM \S+ AS ", dockerfile, flags=re.MULTILINE)
    }
    packages = {stage: names for stage, names in installing.items() if names}
    assert packages == {stage: ["libopus0=1.3.1-*"] for stage in ("predictor-packages", "predictor")}
    sbom = dockerfile.partition(" AS predictor-packages\n")[2].partition("\nFROM ")[0]
    assert sbom.index("debian_install.sh '") < sbom.index("install.sh predictor"), "the SBOM is written after it"
    assert "docker/debian_install.sh" in BUILD_FILES


def test_makefile_and_image_tools_pin_the_same_uv() -> None:
    makefile = (PROJECT_ROOT / "Makefile").read_text()
    assert f"UV_VERSION := {read_pins(DOCKER / 'tools.lock')['uv']}\n" in makefile


def test_index_password_reaches_a_build_as_a_secret_only(tmp_path: Path) -> None:
    url = "https://user:s3cret@index.example.org/simple"
    result = subprocess.run(
        [sys.executable, str(DOCKER / "index_settings.py"), str(tmp_path), "podman"],
        env={**os.environ, "PIP_INDEX_URL": url, "PIP_FIND_LINKS": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "s3cret" not in result.stdout + result.stderr
    assert f"id=pip_conf,src={tmp_path}/pip.conf" in result.stdout and f"{tmp_path}:{tmp_path}:ro" in result.stdout
    assert f"index-url = {url}\n" in (tmp_path / "pip.conf").read_text()
    assert tomllib.loads((tmp_path / "uv.toml").read_text()) == {"index-url": url, "find-links": [str(tmp_path)]}
