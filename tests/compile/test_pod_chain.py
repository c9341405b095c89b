"""How many pods a run of the compiled pipeline starts, and how many of them one after another.

Argo starts a pod for the driver of every task and, for a task with a container, one for the container; a loop has a further
driver for each iteration (KFP 2.17.0, backend/src/v2/compiler/argocompiler). On two cores such a pod takes about 10 s, however
little it does: the pipeline's 38 pods of a run whose steps were all finished took 6 min 9 s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.compile import compile_pipeline
from tests.compile.test_golden import pipeline_spec

Spec = Mapping[str, Any]
SECONDS_A_POD = 12.3
"""Seconds of the measured rerun (6 min 9 s) by the 30 pods of its longest chain."""


@dataclass(frozen=True)
class Pods:
    """Pods of a task or a DAG: all of them, and those of the longest chain."""

    total: int
    chain: int


def pods_of(spec: Spec, branches: Mapping[str, bool]) -> Pods:
    """Count the pods of a run.

    Args:
        spec: the compiled pipeline.
        branches: whether each condition holds, by the name that the pipeline gives it.
    """

    def dag(component: Spec) -> Pods:
        tasks = component["dag"]["tasks"]
        counted = {name: task(content) for name, content in tasks.items()}

        def ends(name: str) -> int:
            before = (ends(upstream) for upstream in tasks[name].get("dependentTasks", []))
            return max(before, default=0) + counted[name].chain

        return Pods(1 + sum(one.total for one in counted.values()), 1 + max(ends(name) for name in tasks))

    def task(content: Spec) -> Pods:
        component = spec["components"][content["componentRef"]["name"]]
        if "executorLabel" in component:
            return Pods(2, 2)
        if "condition" in content.get("triggerPolicy", {}) and not branches[content["taskInfo"]["name"]]:
            return Pods(1, 1)  # its driver evaluates the condition
        inner = dag(component)
        loop = "parameterIterator" in content
        return Pods(inner.total + loop, inner.chain + loop)

    return dag(spec["root"])


def test_a_run_whose_steps_are_all_finished_has_a_short_chain() -> None:
    """The goal: less than two minutes on the machine that took 6 min 9 s."""
    pods = pods_of(pipeline_spec(), {"work-to-do": False, "all-finished": True})
    assert pods == Pods(total=10, chain=9)
    assert pods.chain * SECONDS_A_POD < 120


def test_a_run_whose_finished_model_is_not_promoted_has_no_release() -> None:
    assert pods_of(pipeline_spec(), {"work-to-do": False, "all-finished": False}) == Pods(total=8, chain=7)


def test_a_run_with_work_has_at_most_28_pods_one_after_another() -> None:
    branches = {"work-to-do": True, "all-finished": False, "data-passes": True, "not-rejected": True, "release": True}
    assert pods_of(pipeline_spec(), branches) == Pods(total=33, chain=28)
    waits = pods_of(pipeline_spec(), {**branches, "release": False})
    assert waits == Pods(total=31, chain=26), "a model that waits for a person is registered, and the run ends"


@pytest.mark.long
@pytest.mark.parametrize("shards", [1, 2])
def test_only_several_shards_need_a_loop(shards: int, tmp_path: Path) -> None:
    compile_pipeline("tiny", [f"speech.extraction.shards={shards}"], tmp_path / "pipeline.yaml")
    text = (tmp_path / "pipeline.yaml").read_text(encoding="utf-8")
    spec: Spec = next(yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    tasks = [name for one in spec["components"].values() for name in one.get("dag", {}).get("tasks", {})]
    assert [name for name in tasks if name.startswith("for-loop")] == (["for-loop-4"] if shards > 1 else [])
    assert tasks.count("embed-utterances") == 1 and ("extract-embeddings" in tasks) == (shards > 1)
