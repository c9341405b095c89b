"""Every compiled step finds what its code imports in the lock file of its image, in the mode that its profile names."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml

from mistere.common.digests.code import closure
from mistere.common.paths import PROJECT_ROOT
from mistere.config.loader import available_profiles
from mistere.config.stages import stages
from pipelines.compile import compile_pipeline
from pipelines.profiles import PROFILES, load_profile
from tests.compile.steps import stages_of, step_of

OPTIONAL = {"bitsandbytes", "codecarbon", "pynvml"}
"""The extra ``qlora``: a step that needs it because of a setting reports that it is missing. The others measure energy where they are there."""
CHILD_PROCESSES = {("deploy_model", "local"): "mistere.predictor.__main__"}
"""Modules that a step starts in a child process, by stage and deployment mode."""


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def locked(role: str) -> frozenset[str]:
    """The distributions of an image."""
    lines = (PROJECT_ROOT / "docker" / f"{role}.lock").read_text(encoding="utf-8").splitlines()
    return frozenset(normalised(re.split(r"[=\[]", line)[0]) for line in lines if "==" in line)


@cache
def installed() -> Mapping[str, list[str]]:
    """The distributions of each package of this environment."""
    return packages_distributions()


@cache
def imported(file: Path) -> frozenset[str]:
    """The third-party packages that a file imports, also inside functions."""
    names: set[str] = set()
    pending: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        pending.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return frozenset(names - sys.stdlib_module_names - {"mistere", "components", "pipelines"})


@cache
def missing(stage: str, mode: str, role: str) -> frozenset[str]:
    """The packages that a stage imports and its image lacks.

    Args:
        stage: the stage.
        mode: ``deployment.mode`` of the profile.
        role: the image: ``pipeline``, ``train`` or ``predictor``.
    """
    starts = [f"components.{stage}.run", *([child] if (child := CHILD_PROCESSES.get((stage, mode))) else [])]
    files = {file for start in starts for file in closure(start, computing=False).values()}
    packages = {package for file in files for package in imported(file)} - OPTIONAL
    return frozenset(
        package
        for package in packages
        if not any(normalised(name) in locked(role) for name in installed().get(package, [package]))
    )


@pytest.mark.long
@pytest.mark.parametrize(
    "profile",
    [name if name == "tiny" else pytest.param(name, marks=pytest.mark.long) for name in available_profiles(PROFILES)],
)
def test_each_image_contains_what_its_steps_import(profile: str, tmp_path: Path) -> None:
    compile_pipeline(profile, [], tmp_path / "pipeline.yaml")
    text = (tmp_path / "pipeline.yaml").read_text(encoding="utf-8")
    spec: dict[str, Any] = next(yaml.load_all(text, Loader=yaml.CSafeLoader))
    mode = load_profile(profile).deployment.mode
    executors = spec["deploymentSpec"]["executors"]
    assert len(executors) == 14
    for name, executor in executors.items():
        role = re.search(r"/([a-z]+)(?:-python)?[:@]", executor["container"]["image"])
        assert role, executor["container"]["image"]
        for stage in stages_of(step_of(name)):
            assert missing(stage, mode, role[1]) == set(), f"{stage} in the image {role[1]}"


IMPORTS = """
import importlib, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Missing())
for module in sys.argv[2].split(","):
    importlib.import_module(module)
"""


def import_in(role: str, *modules: str) -> None:
    """Import modules without the packages that an image lacks."""
    absent = {
        package for package, names in installed().items() if not any(normalised(name) in locked(role) for name in names)
    } - {"mistere", "components", "pipelines"}
    assert absent
    command = [sys.executable, "-c", IMPORTS, ",".join(sorted(absent)), ",".join(modules)]
    subprocess.run(command, cwd=PROJECT_ROOT, check=True, timeout=60)


def test_the_declarations_of_all_stages_can_be_read_in_the_image_of_resolve_inputs() -> None:
    """It looks up the finished steps of every stage, also of those that run in another image."""
    assert not {"torch", "transformers"} & locked("pipeline")
    import_in("pipeline", *(f"components.{stage}.run" for stage in stages()))


@pytest.mark.parametrize("role", ["pipeline", "train"])
def test_steps_of_two_stages_can_be_imported_in_their_images(role: str) -> None:
    """One module declares them, and each of its steps runs in another image."""
    import_in(role, "pipelines.combined_steps")


def test_missing_torch_of_a_local_deployment_is_found() -> None:
    """Seen on KFP 2.17.0: ``ModuleNotFoundError: No module named 'torch'`` after the whole training."""
    assert "torch" in missing("deploy_model", "local", "pipeline")
