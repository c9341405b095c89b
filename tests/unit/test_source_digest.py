"""The code behind each step's key: what a stage runs is in it, what it does not run is not."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from components.core.places import PROJECT_ROOT
from components.core.source_digest import closure

STAGES = sorted(path.parent.name for path in (PROJECT_ROOT / "components").glob("*/run.py"))
MODELS = {"embed_shard", "evaluate_model", "finetune_encoder", "train_moe"}
"""The stages that compute with torch."""


def modules(stage: str) -> set[str]:
    return set(closure(f"components.{stage}.run"))


def imported_packages(file: Path) -> set[str]:
    """Packages a file imports anywhere but under ``if TYPE_CHECKING``."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_a_closure_holds_the_stage_and_the_engine_but_no_other_stage(stage: str) -> None:
    found = modules(stage)
    assert {"components", f"components.{stage}", f"components.{stage}.run", "components.core.stage"} <= found
    others = {name.split(".")[1] for name in found if "." in name} - {stage, "core"}
    assert others == set()


@pytest.mark.parametrize("stage", STAGES)
def test_how_progress_and_failures_are_worded_is_in_no_closure(stage: str) -> None:
    assert not modules(stage) & {"components.core.progress", "components.core.errors"}


@pytest.mark.parametrize("stage", sorted(set(STAGES) - MODELS))
def test_a_light_stage_has_no_torch_in_its_closure(stage: str) -> None:
    heavy = {
        name
        for name, file in closure(f"components.{stage}.run").items()
        if imported_packages(file) & {"torch", "transformers", "peft"}
    }
    assert heavy == set()


def test_the_gate_holds_its_rules_and_no_encoder() -> None:
    found = modules("gate_model")
    rules = {
        path.stem for path in (PROJECT_ROOT / "components/gate_model/rules").glob("*.py") if path.stem != "__init__"
    }
    assert {f"components.gate_model.rules.{rule}" for rule in rules} <= found and len(rules) >= 3
    assert not {name for name in found if name.startswith(("components.core.encoders", "components.core.moe"))}


def test_each_stage_holds_the_models_it_runs() -> None:
    for stage in ("finetune_encoder", "embed_shard"):
        found = modules(stage)
        families = (PROJECT_ROOT / "components/core/encoders").glob("family_*.py")
        assert {f"components.core.encoders.{file.stem}" for file in families} <= found
        assert not {name for name in found if name.startswith("components.core.moe")}, stage
    found = modules("train_moe")
    assert "components.core.moe.mixture" in found and "components.core.losses" in found
    assert not {name for name in found if name.startswith("components.core.encoders")}


PROBE = """
import json, sys
from components.core.source_digest import source_digest
print(json.dumps({stage: source_digest(f"components.{stage}.run") for stage in sys.argv[1:]}))
"""


def digests(root: Path) -> dict[str, str]:
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    answer = subprocess.run(
        [sys.executable, "-c", PROBE, *STAGES], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    found: dict[str, str] = json.loads(answer.stdout)
    return found


def test_an_edit_changes_the_digests_of_exactly_the_stages_that_run_it(tmp_path: Path) -> None:
    shutil.copytree(PROJECT_ROOT / "components", tmp_path / "components", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(PROJECT_ROOT / "requirements.lock", tmp_path / "requirements.lock")
    before = digests(tmp_path)
    assert digests(tmp_path) == before

    def changed_by(file: str, addition: str = "# edited\n") -> set[str]:
        path = tmp_path / file
        original = path.read_bytes()
        path.write_bytes(original + addition.encode())
        after = digests(tmp_path)
        path.write_bytes(original)
        return {stage for stage in STAGES if after[stage] != before[stage]}

    assert changed_by("components/gate_model/rules/above_majority.py") == {"gate_model"}
    assert changed_by("components/finetune_encoder/fine_tuning.py") == {"finetune_encoder"}
    assert changed_by("components/gate_model/component.py") == set()
    assert changed_by("components/predictor/rest.py") == set()
    assert changed_by("components/core/errors.py") == changed_by("components/core/progress.py") == set()
    assert {"finetune_encoder", "embed_shard"} <= changed_by("components/core/encoders/inputs.py") <= MODELS
    assert {"train_moe", "evaluate_model"} <= changed_by("components/core/moe/mixture.py") <= MODELS
    assert changed_by("components/core/manifests.py") == set(STAGES)
    assert changed_by("requirements.lock", "new-package==1\n") == set(STAGES)
    assert changed_by("components/validate_data/report.html", "<!-- edited -->") == {"validate_data"}
    assert changed_by("components/core/templates/base.html", "<!-- edited -->") == {"validate_data", "report_run"}

    rule = tmp_path / "components/gate_model/rules/new_rule.py"
    rule.write_text("")
    after = digests(tmp_path)
    assert {stage for stage in STAGES if after[stage] != before[stage]} == {"gate_model"}
