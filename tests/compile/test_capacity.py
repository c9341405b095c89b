"""What the profiles request: the guide names it, and `tiny` and `sample` fit a small node."""

from __future__ import annotations

import re

import pytest

from mistere.common.paths import PROJECT_ROOT
from mistere.config.cluster import StepSettings
from mistere.config.deployment import DeploymentConfig
from mistere.config.loader import Config
from mistere.config.stages import stages
from pipelines.profiles import load_profile
from tests.compile.test_placement import GIB, parse_quantity

GUIDE = PROJECT_ROOT / "docs" / "guides" / "cluster.md"
PROFILES = ("tiny", "sample", "gpu", "paper")
RELEASE_PODS = 3  # during a release: the pod that serves, the candidate, and the first pod of the new revision


def steps_of(config: Config) -> list[StepSettings]:
    return [
        config.cluster.step(stage, modality)
        for stage, info in stages().items()
        for modality in (("speech", "text") if info.per_modality else ("",))
    ]


def encoders_of(config: Config) -> list[StepSettings]:
    """The two steps that run at the same time and request the most."""
    return [config.cluster.step("finetune_encoder", modality) for modality in ("speech", "text")]


def amounts(pods: list[StepSettings] | list[DeploymentConfig]) -> str:
    cores = sum(parse_quantity(pod.cpu) for pod in pods)
    memory, gpus = sum(parse_quantity(pod.memory) for pod in pods), sum(pod.gpus for pod in pods)
    gpu = f", {gpus} GPU{'' if gpus == 1 else 's'}" if gpus else ""
    return f"{cores:.3g}, {memory / GIB:.3g} GiB{gpu}"


def row(profile: str) -> str:
    config = load_profile(profile)
    steps = steps_of(config)
    largest = max(steps, key=lambda step: (step.gpus, parse_quantity(step.memory), parse_quantity(step.cpu)))
    disk = max(parse_quantity(step.scratch) for step in steps) / GIB
    cells = (
        f"`{profile}`",
        amounts([largest]),
        amounts(encoders_of(config)),
        amounts([config.deployment.with_amounts()] * RELEASE_PODS),
        f"{disk:.3g} GiB",
        f"{parse_quantity(config.deployment.with_amounts().cache) / GIB:.3g} GiB",
    )
    return f"| {' | '.join(cells)} |"


def test_the_guide_names_what_each_profile_requests() -> None:
    table = re.findall(r"^\| `\w+` \|.* GiB \|$", GUIDE.read_text(encoding="utf-8"), re.MULTILINE)
    assert table == [row(profile) for profile in PROFILES]


@pytest.mark.parametrize("profile", ["tiny", "sample"])
def test_small_profiles_fit_a_node_of_two_cores(profile: str) -> None:
    """A quarter of the cores and half of the memory of a node with 2 cores and 8 GiB; the rest runs the cluster itself."""
    config = load_profile(profile)
    release = [config.cluster.step("deploy_model"), *[config.deployment.with_amounts()] * RELEASE_PODS]
    for pods in (*([step] for step in steps_of(config)), encoders_of(config), release):
        assert sum(parse_quantity(pod.cpu) for pod in pods) <= 0.5
        assert sum(parse_quantity(pod.memory) for pod in pods) <= 4 * GIB


@pytest.mark.parametrize("profile", PROFILES)
def test_no_request_exceeds_its_limit(profile: str) -> None:
    config = load_profile(profile)
    for step in steps_of(config):
        assert parse_quantity(step.cpu) <= parse_quantity(step.cpu_limit)
    deployment = config.deployment.with_amounts()
    assert parse_quantity(deployment.cpu) <= parse_quantity(deployment.cpu_limit)
    assert parse_quantity(deployment.memory) <= parse_quantity(deployment.memory_limit)
