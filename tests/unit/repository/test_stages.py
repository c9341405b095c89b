"""Stages are discovered from their folders and agree with the code and the compiled pipeline."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from mistere.common.errors import UsageError
from mistere.common.paths import PROJECT_ROOT
from mistere.config.cluster import ClusterConfig, StepSettings
from mistere.config.stages import every_stage, stages
from mistere.engine.stage import Stage
from tests.compile.steps import OPTIONAL, stages_of, step_of
from tests.yaml_documents import documents

COMPONENTS = PROJECT_ROOT / "components"
PAGE = PROJECT_ROOT / "docs" / "extending" / "stage.md"
RUN_EXAMPLE_STAGE = """
import json, sys
from pathlib import Path
from components.weakest_label.run import STAGE
from mistere.artifacts.io import MANIFEST, publish
from mistere.artifacts.manifests import EvaluationReport
from mistere.artifacts.object_store import LocalStore
from mistere.config.cluster import ClusterConfig
from mistere.engine.execution import execute
from mistere.config.stages import task_title, task_titles
from mistere.runs.outcome import read_outcome

folder = Path(sys.argv[1])
store = LocalStore(folder / "store")
(folder / "report").mkdir()
manifest = publish(store, EvaluationReport(
    labels=["anger", "joy", "fear"], experts=["text"], test_digest="t", utterances=30, dialogues=3, confusion=[],
    metrics={"test.f1.anger": 0.6, "test.f1.joy": 0.4, "test.f1.fear": 0.1, "test.support.anger": 15.0,
             "test.support.joy": 14.0, "test.support.fear": 1.0},
), folder / "report")
(folder / "report").mkdir(exist_ok=True)
(folder / "report" / MANIFEST).write_text(manifest.model_dump_json())
statuses = []
for run_id in ("first", "second"):
    context = {"run_id": run_id, "store": store.uri, "tracking_uri": ""}
    values = execute(STAGE, context, {"min_support": 5}, inputs={"report": str(folder / "report")})
    statuses += [record.status for record in read_outcome(store, run_id).stages]
print(json.dumps({
    "values": dict(values), "statuses": statuses, "title": task_title("weakest_label"), "tasks": list(task_titles()),
    "memory": ClusterConfig().step("weakest_label").memory,
}))
"""
COMPILE = """
import sys
from kfp.compiler import Compiler
from mistere.config.cluster import ClusterConfig
from pipelines.retraining import retraining
Compiler().compile(retraining(cluster=ClusterConfig()), sys.argv[1])
"""


def blocks() -> dict[str, str]:
    """Return the page's files by path."""
    return dict(re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```$', PAGE.read_text(encoding="utf-8"), re.M | re.S))


def run_in_tree(tree: Path, program: str, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()[-1] if process.stdout else ""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the code with the documentation's example stage, added to the pipeline."""
    tree = tmp_path / "tree"
    for package in ("mistere", "components", "pipelines"):
        shutil.copytree(PROJECT_ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    files = blocks()
    call, line = files.pop("pipelines/retraining.py"), files.pop("pipelines/retraining.py import")
    for name, text in files.items():
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_text(text, encoding="utf-8")
    pipeline = tree / "pipelines" / "retraining.py"
    text = pipeline.read_text(encoding="utf-8")
    after_gate = re.search(r"^( +)with dsl\.If\(judged", text, re.M)
    assert after_gate is not None
    indent = after_gate[1]
    text = text[: after_gate.start()] + indent + call + text[after_gate.start() :]
    pipeline.write_text(line + text, encoding="utf-8")
    return tree


@pytest.mark.long
def test_new_folder_adds_a_stage(copy: Path, tmp_path: Path) -> None:
    result: dict[str, Any] = json.loads(run_in_tree(copy, RUN_EXAMPLE_STAGE, str(tmp_path)))
    assert result["values"] == {"label": "joy"} and result["statuses"] == ["done", "reused"]
    assert result["title"] == "looking for the weakest label" and result["memory"] == "1Gi"
    position = result["tasks"].index("weakest_label")
    assert result["tasks"][position - 1] in {"evaluate_model", "gate_model"}
    assert position < result["tasks"].index("register_model")
    run_in_tree(copy, COMPILE, str(tmp_path / "compiled.yaml"))
    pipeline, platform = documents((tmp_path / "compiled.yaml").read_text(encoding="utf-8"))
    executor = "exec-weakest-label"
    assert executor in pipeline["deploymentSpec"]["executors"]
    pod = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][executor]
    assert int(pod["activeDeadlineSeconds"]) == 600


@pytest.mark.parametrize("stage", sorted(path.parent.name for path in COMPONENTS.glob("*/run.py")))
def test_stage_declaration_matches_its_code(stage: str) -> None:
    info = every_stage()[stage]
    declared: Stage = import_module(f"components.{stage}.run").STAGE
    run = import_module(f"components.{stage}.run").run
    assert declared.name == stage and (COMPONENTS / stage / "component.py").is_file()
    assert ("modality" in inspect.signature(run).parameters) == info.per_modality == ("{modality}" in info.doing)
    assert ClusterConfig().step(stage) == StepSettings.model_validate(info.pod)


def test_stage_order_matches_the_compiled_pipeline() -> None:
    compiled = documents((PROJECT_ROOT / "pipelines" / "retraining.yaml").read_text(encoding="utf-8"))[0]
    order = list(stages())
    compiled_stages = set()
    for dag in (compiled["root"]["dag"], *(c["dag"] for c in compiled["components"].values() if "dag" in c)):
        for name, task in dag["tasks"].items():
            for stage in stages_of(step_of(name)):
                if stage not in order:
                    continue
                compiled_stages.add(stage)
                for earlier in (
                    one for upstream in task.get("dependentTasks", []) for one in stages_of(step_of(upstream))
                ):
                    ordered = earlier not in order or order.index(earlier) < order.index(stage)
                    assert ordered or stages()[stage].exit_handler
    assert compiled_stages == set(order) - OPTIONAL


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("doing: [", "is not valid YAML"),
        ("after: first", "doing: Field required"),
        ("{doing: x, colour: red}", "colour: Extra inputs are not permitted"),
        ("{doing: x, after: frist}", r"after: there is no stage 'frist'; did you mean 'first'\?"),
        ("{doing: x, after: second}", "after: second itself comes after second"),
        ("{doing: x, student_after: frist}", r"student_after: there is no stage 'frist'; did you mean 'first'\?"),
        ("- doing", "the file: Input should be"),
    ],
)
def test_invalid_declaration_is_rejected_with_one_sentence(text: str, message: str, tmp_path: Path) -> None:
    for name, content in {"first": "doing: x", "second": text}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "stage.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(UsageError, match=message) as error:
        stages(tmp_path)
    assert "\n" not in str(error.value) and str(tmp_path / "second" / "stage.yaml") in str(error.value)
