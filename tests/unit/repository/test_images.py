"""Images: only immutable references are accepted, and each image holds the locked packages that its code imports."""

from __future__ import annotations

import ast
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

from mistere.common.code_digest import closure
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
def test_an_immutable_name_is_accepted(text: str) -> None:
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
def test_a_mutable_name_is_rejected_with_the_reason(text: str) -> None:
    with pytest.raises(UsageError) as error:
        ImageReference.parse(text, "train in images.lock.yaml")
    message = str(error.value)
    assert "steps cached under this name would be reused" in message and "make compile" in message
    assert text in message and "\n" not in message


@pytest.mark.parametrize("text", ["", "Not An Image", "mistere/train@sha256:abc", "None"])
def test_invalid_references_are_rejected(text: str) -> None:
    with pytest.raises(UsageError):
        ImageReference.parse(text, "train in images.lock.yaml")


@pytest.mark.parametrize("content", ["", "images: []", "images: {train: x", "images: {pipeline: a}", "other: 1"])
def test_a_lock_file_that_names_no_images_is_one_sentence(content: str, tmp_path: Path) -> None:
    path = tmp_path / "images.lock.yaml"
    path.write_text(content)
    with pytest.raises(UsageError) as error:
        read_images(path)
    assert "make compile" in str(error.value) and "\n" not in str(error.value)


def test_an_unknown_role_names_the_nearest() -> None:
    assert image("train") == str(read_images(IMAGES_LOCK)["train"])
    with pytest.raises(UsageError, match="did you mean 'predictor'"):
        image("predictors")


def test_the_lock_s_text_keeps_a_digest_of_this_source_and_drops_another_s() -> None:
    train = known_images()["train"]
    ours = replace(train, source=source_hash(), digest=DIGEST, torch="cu130", repository="registry.example.org/a/train")
    assert f"train: registry.example.org/a/train:src-{source_hash()}-cu130@{DIGEST}\n" in lock_text({"train": ours})
    stale = replace(ours, source="0" * 12)
    assert f"train: registry.example.org/a/train:src-{source_hash()}-cu130\n" in lock_text({"train": stale})


@pytest.mark.parametrize("option", ["--digest=trainer=sha256:0", "--digest=train=sha256:0", "--torch=train=CUDA 13"])
def test_a_wrong_option_is_one_sentence(option: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.images", option],
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stderr.startswith("images: ") and done.stderr.count("\n") == 1


def pins(path: Path) -> dict[str, str]:
    """Versions by package of a lock file."""
    lines = [line.partition("#")[0].strip() for line in path.read_text().splitlines()]
    pairs = [line.split("==") for line in lines if line]
    return {canonicalize_name(name): version for name, version in pairs}


@pytest.mark.parametrize("role", ROLES)
def test_an_image_s_lock_is_a_part_of_the_environment_s(role: str) -> None:
    own, whole = pins(DOCKER / f"{role}.lock"), pins(PROJECT_ROOT / "requirements.lock")
    assert own.items() <= whole.items()
    group = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["dependency-groups"][role]
    assert {canonicalize_name(Requirement(name).name) for name in group} <= own.keys()


OPTIONAL = {"bitsandbytes", "model_signing"}
"""Extras: if one is missing, the error says what to install."""
LEFT_OUT = {"predictor": {"dvc"}}
"""Imported by functions that read datasets, which the image contains but never calls."""


def imported(role: str) -> set[str]:
    """Third-party packages that the modules of an image import, also inside functions."""
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
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module)
    tops = {name.partition(".")[0] for name in names}
    return tops - sys.stdlib_module_names - {"mistere", "components", "pipelines"}


@pytest.mark.parametrize("role", ROLES)
def test_an_image_holds_what_its_code_imports(role: str) -> None:
    providers = packages_distributions()
    own = pins(DOCKER / f"{role}.lock").keys()
    for name in imported(role) - OPTIONAL - LEFT_OUT.get(role, set()):
        assert {canonicalize_name(one) for one in providers[name]} & own, f"{role} lacks {name}"


def test_the_code_layer_holds_every_package_of_ours() -> None:
    packages = {path.parent.name for path in PROJECT_ROOT.glob("*/__init__.py")} - {"tests"}
    dockerfile = (DOCKER / "Dockerfile").read_text()
    code = dockerfile.partition(" AS code\n")[2].partition("\nFROM ")[0]
    assert {"mistere", "components", "pipelines"} <= packages
    assert set(re.findall(r"^COPY (\w+) \1$", code, re.MULTILINE)) == packages
    compiled = re.search(r"^RUN python3 -m compileall .* unchecked-hash (.+)$", code, re.MULTILINE)
    assert compiled is not None and set(compiled[1].split()) == packages
    let_in = set(re.findall(r"^!(\w+)$", (PROJECT_ROOT / ".dockerignore").read_text(), re.MULTILINE))
    assert packages <= let_in, "the build context leaves a package out"


def test_the_light_image_holds_no_torch() -> None:
    assert not {"torch", "transformers"} & pins(DOCKER / "pipeline.lock").keys()
    assert not {"torch", "transformers"} & imported("pipeline")


def test_the_bake_file_builds_what_the_dockerfile_and_the_lock_name() -> None:
    bake, dockerfile = (DOCKER / "docker-bake.hcl").read_text(), (DOCKER / "Dockerfile").read_text()
    for listed in re.findall(r"(?:targets|role) = \[(.*?)\]", bake):
        assert tuple(re.findall(r'"(\w+)"', listed)) == ROLES
    assert set(ROLES) <= set(re.findall(r"^FROM \S+ AS (\w+)$", dockerfile, re.MULTILINE))
    taken = {
        word for line in re.findall(r"^ARG (.+)$", dockerfile, re.MULTILINE) for word in line.split("=")[0].split()
    }
    assert set(re.findall(r"^    ([A-Z_]+) += ", bake, re.MULTILINE)) == taken
    base = r"docker\.io/library/python:3\.11-slim-bookworm"
    assert re.search(base, bake) and re.search(base, dockerfile)


def test_every_image_is_run_by_a_user_and_carries_labels_and_no_image_runs_as_root() -> None:
    dockerfile = (DOCKER / "Dockerfile").read_text()
    for role in ROLES:
        stage = dockerfile.partition(f" AS {role}\n")[2].partition("\nFROM ")[0]
        assert "USER 10001:10001" in stage
        assert "org.opencontainers.image.revision" in stage and "org.opencontainers.image.version" in stage


def test_what_builds_the_images_is_what_makes_the_environment() -> None:
    makefile = (PROJECT_ROOT / "Makefile").read_text()
    assert f"UV_VERSION := {pins(DOCKER / 'tools.lock')['uv']}\n" in makefile


def test_an_index_s_password_goes_to_a_build_as_a_secret_only(tmp_path: Path) -> None:
    url = "https://user:s3cret@index.example.org/simple"
    done = subprocess.run(
        [sys.executable, str(DOCKER / "index_settings.py"), str(tmp_path), "podman"],
        env={**os.environ, "PIP_INDEX_URL": url, "PIP_FIND_LINKS": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "s3cret" not in done.stdout + done.stderr
    assert f"id=pip_conf,src={tmp_path}/pip.conf" in done.stdout and f"{tmp_path}:{tmp_path}:ro" in done.stdout
    assert f"index-url = {url}\n" in (tmp_path / "pip.conf").read_text()
    assert tomllib.loads((tmp_path / "uv.toml").read_text()) == {"index-url": url, "find-links": [str(tmp_path)]}
