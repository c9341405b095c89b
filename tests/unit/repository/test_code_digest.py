"""The code behind each step's key: what a stage runs is in it, what it does not run is not."""

from __future__ import annotations

import ast
import functools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from mistere.common.digests.code import closure, code_meaning, statements
from mistere.common.paths import PROJECT_ROOT
from pipelines.cli.commands.score import SCORING_CODE

STAGES = sorted(path.parent.name for path in (PROJECT_ROOT / "components").glob("*/run.py"))
MODELS = {
    "distill_encoder",
    "distill_mixture",
    "embed_shard",
    "evaluate_model",
    "finetune_encoder",
    "open_teacher",
    "score_shard",
    "train_moe",
    "transcribe",
}
"""The stages that compute with torch."""


def modules(stage: str) -> set[str]:
    return set(closure(f"components.{stage}.run"))


@cache
def imported_packages(file: Path) -> set[str]:
    """Packages a file imports anywhere but under ``if TYPE_CHECKING``."""
    names: set[str] = set()
    for node in statements(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("stage", STAGES)
def test_a_closure_holds_the_stage_and_no_other_stage(stage: str) -> None:
    names = modules(stage)
    assert {"components", f"components.{stage}", f"components.{stage}.run"} <= names
    others = {name.split(".")[1] for name in names if name.startswith("components.")} - {stage}
    assert others == set()


@pytest.mark.parametrize("stage", STAGES)
def test_tracking_registry_progress_and_reports_are_in_no_closure(stage: str) -> None:
    rooms = ("mistere.registry", "mistere.runs", "mistere.reports", "mistere.engine", "mistere.kubernetes", "pipelines")
    names = modules(stage)
    assert not {name for name in names if name.startswith(rooms)}
    assert not names & {"mistere.common.progress", "mistere.common.errors", "mistere.artifacts.object_store"}
    assert not {name for name in names if name.endswith("live_tracking")}


@pytest.mark.parametrize("stage", sorted(set(STAGES) - MODELS))
def test_a_light_stage_has_no_torch_in_its_closure(stage: str) -> None:
    heavy = {
        name
        for name, file in closure(f"components.{stage}.run").items()
        if imported_packages(file) & {"torch", "transformers", "peft"}
    }
    assert heavy == set()


def test_the_gate_holds_its_rules_and_no_encoder() -> None:
    names = modules("gate_model")
    rules = {
        path.stem for path in (PROJECT_ROOT / "components/gate_model/rules").glob("*.py") if path.stem != "__init__"
    }
    assert {f"components.gate_model.rules.{rule}" for rule in rules} <= names and len(rules) >= 3
    assert not {name for name in names if name.startswith(("mistere.model.encoders.families", "mistere.model.mixture"))}


def test_each_stage_holds_the_models_it_runs() -> None:
    for stage in ("finetune_encoder", "embed_shard"):
        names = modules(stage)
        families = (PROJECT_ROOT / "mistere/model/encoders/families").glob("[a-z]*.py")
        assert {f"mistere.model.encoders.families.{file.stem}" for file in families} <= names
        assert not {name for name in names if name.startswith("mistere.model.mixture")}, stage
    names = modules("train_moe")
    assert "mistere.model.mixture.mixture" in names and "mistere.model.losses" in names
    assert not {name for name in names if name.startswith("mistere.model.encoders.families")}


def test_the_code_of_a_scoring_holds_the_model() -> None:
    names = {"mistere.model.inference", "mistere.model.mixture.mixture", "mistere.model.mixture.prediction"}
    names |= {"mistere.model.embedders", "mistere.model.transcription.transcriber", "mistere.scoring.scorer"}
    assert names <= set(closure(SCORING_CODE))


PROBE = """
import ast, functools, json, sys
from mistere.common.digests import code as code_digest

# One process answers for many edits: what was read is forgotten in between, what was parsed is kept by its text.
code_digest.code_meaning = functools.cache(code_digest.code_meaning)
ast.parse = functools.cache(ast.parse)
caches = [value for value in vars(code_digest).values() if value is not code_digest.code_meaning and hasattr(value, "cache_clear")]
for line in sys.stdin:
    for cached in caches:
        cached.cache_clear()
    print(json.dumps({stage: code_digest.source_digest(f"components.{stage}.run") for stage in json.loads(line)}), flush=True)
"""


class Probe:
    """A process that computes the stages' digests in a tree, as often as one asks it to."""

    def __init__(self, root: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
        self.root = root
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROBE],
            cwd=root,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def digests(self) -> dict[str, str]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(STAGES) + "\n")
        self.process.stdin.flush()
        digest_of: dict[str, str] = json.loads(self.process.stdout.readline())
        return digest_of

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(60) == 0


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code that may be edited."""
    copy = tmp_path_factory.mktemp("tree")
    for layer in ("mistere", "components"):
        shutil.copytree(PROJECT_ROOT / layer, copy / layer, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(PROJECT_ROOT / "requirements.lock", copy / "requirements.lock")
    return copy


@pytest.fixture(scope="module")
def probe(tree: Path) -> Iterator[Probe]:
    probe = Probe(tree)
    yield probe
    probe.close()


@pytest.fixture(scope="module")
def before(probe: Probe) -> dict[str, str]:
    return probe.digests()


def changed_by(probe: Probe, before: dict[str, str], edits: dict[str, tuple[str, str]]) -> set[str]:
    """The stages whose digest changes when in each file the first text is replaced by the second ("" is the end)."""
    tree = probe.root
    originals = {file: (tree / file).read_text() if (tree / file).exists() else None for file in edits}
    for file, (old, new) in edits.items():
        text = originals[file] or ""
        assert old in text
        (tree / file).write_text(text.replace(old, new, 1) if old else text + new)
    after = probe.digests()
    for file, text in originals.items():
        (tree / file).unlink() if text is None else (tree / file).write_text(text)
    return {stage for stage in STAGES if after[stage] != before[stage]}


def reworded(source: str) -> str:
    """The same code with every docstring replaced, every comment removed and blank lines added."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            node.value.value = "Another sentence."
    return "\n\n\n# A comment.\n" + ast.unparse(tree).replace("\n\n", "\n\n\n\n")


def test_the_meaning_of_a_file_is_that_of_its_code() -> None:
    """Of every tenth file; all of them, in the keys of the stages, with the long tests."""
    files = sorted(file for layer in ("mistere", "components") for file in (PROJECT_ROOT / layer).rglob("*.py"))
    for file in files[::10]:
        text = file.read_text(encoding="utf-8")
        assert code_meaning(reworded(text)) == code_meaning(text), file
        assert code_meaning(text + "CHANGED = 1\n") != code_meaning(text), file


@pytest.mark.long
def test_comments_docstrings_and_blank_lines_change_no_key(probe: Probe, before: dict[str, str]) -> None:
    """Every file of the code, reworded at once: ``ast.unparse`` changes layout, quotes, comments and docstrings."""
    originals = {file: file.read_text() for file in probe.root.rglob("*.py")}
    for file, text in originals.items():
        file.write_text(reworded(text))
    try:
        assert probe.digests() == before
    finally:
        for file, text in originals.items():
            file.write_text(text)


@pytest.mark.long
def test_a_changed_constant_changes_exactly_the_keys_of_the_stages_that_compute_with_it(
    probe: Probe, before: dict[str, str]
) -> None:
    constant = ("", "CHANGED = 1\n")

    def by(file: str, edit: tuple[str, str] = constant) -> set[str]:
        return changed_by(probe, before, {file: edit})

    assert by("components/gate_model/rules/above_majority.py") == {"gate_model"}
    assert by("components/finetune_encoder/fine_tuning.py") == {"finetune_encoder"}
    assert by("components/gate_model/component.py") == set()
    assert by("mistere/predictor/protocol/rest.py") == set()
    assert by("mistere/common/errors.py") == by("mistere/common/progress.py") == set()
    assert by("mistere/registry/mlflow/model_registry.py") == by("mistere/artifacts/object_store.py") == set()
    assert {"finetune_encoder", "embed_shard"} <= by("mistere/model/encoders/images.py") <= MODELS
    assert {"train_moe", "evaluate_model"} <= by("mistere/model/mixture/mixture.py") <= MODELS
    assert by("mistere/model/losses.py", ("gamma", "gamma_")) <= MODELS
    assert by("mistere/artifacts/manifests.py") == set(STAGES) - {"monitor_traffic"}  # never cached: it only reports
    assert by("requirements.lock", ("", "new-package==1\n")) == set(STAGES)
    assert by("components/validate_data/report.html", ("", "<!-- edited -->")) == {"validate_data"}
    assert by("mistere/reports/templates/base.html", ("", "<!-- edited -->")) == set()
    assert by("components/gate_model/rules/new_rule.py") == {"gate_model"}


@pytest.mark.long
def test_a_stage_whose_module_opts_out_still_depends_on_the_rest(probe: Probe, before: dict[str, str]) -> None:
    edits = {"mistere/metrics/calibration.py": ("", "AFFECTS_RESULTS = False\n")}
    assert changed_by(probe, before, edits) == {"evaluate_model"}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("x = 1", "x = 1  # one\n\n", True),
        ('def f():\n    """One."""\n    return 1', 'def f():\n    "Two."\n    return 1', True),
        ('class A:\n    a: int = 1\n    """About a."""', "class A:\n    a: int = 1", True),
        ("x = 'a'", 'x = "a"', True),
        ("f(a,\n  b)", "f(a, b)", True),
        ("x = 1", "x = 1.0", False),
        ("x = 1", "x = True", False),
        ("x = 'a'", "x = b'a'", False),
        ("x = 'a'", "x = 'b'", False),
        ("def f(a): pass", "def f(a=None): pass", False),
        ("x = a", "x = -a", False),
        ("x: int = 1", "x: float = 1", False),
        ("f'{a}'", "f'{a!r}'", False),
        ("f'{a:{b}}'", "f'{a:{b}}' ''", True),
        ("f('')", "f()", False),
    ],
)
def test_what_counts_as_the_meaning_of_code(one: str, other: str, same: bool) -> None:
    assert (code_meaning(one) == code_meaning(other)) is same


@pytest.mark.long
def test_the_meaning_is_the_same_under_every_python_of_this_machine() -> None:
    """Keys are shared between machines: on this one, every installed version that is supported must agree."""
    code = (
        "import hashlib, sys; from pathlib import Path; from mistere.common.digests.code import code_meaning; "
        "texts = [p.read_text(encoding='utf-8') for s in ('mistere', 'components', 'pipelines') for p in sorted(Path(s).rglob('*.py'))]; "
        "print(sys.version_info[:2], hashlib.sha256(''.join(map(code_meaning, texts)).encode()).hexdigest())"
    )
    answers: dict[str, str] = {}
    for python in {sys.executable, *filter(None, map(shutil.which, ("python3.11", "python3.12", "python3.13")))}:
        done = subprocess.run([python, "-c", code], cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
        if done.returncode == 0:  # a pyenv shim exists for versions that are not selected
            version, _, digest = done.stdout.strip().rpartition(" ")
            answers[version] = digest
    assert answers and len(set(answers.values())) == 1, answers


MODULE_NAME = re.compile(r"(?<![\w/.$-])((?:mistere|components|pipelines)(?:\.[A-Za-z_]\w*)+)(?![\w/-]|\.\w)")
NOT_MODULES = re.compile(
    r"pipelines\.kubeflow\.org|mistere\.(step_key|outcome|commit|dirty|profile|bundle_digest|dvc_digest|run_id|e2e)\b|"
    r"mistere\.(model\.(name|version|digest)|protocol|utterances|new_vectors|batch_dialogues)\b|"
    r"pipelines\.cli\.doctor\.groups\.local_machine\._DISK_BYTES"
)
"""An API group of Kubernetes, and tags in MLflow, labels of containers and attributes of traces that start like a package of ours."""


@cache
def documented() -> frozenset[str]:
    """Modules that a page of the documentation tells a reader to create, as its tests do."""
    pages = (PROJECT_ROOT / "docs" / "extending").glob("*.md")
    titles = (title for page in pages for title in re.findall(r'title="([\w/]+)\.py"', page.read_text("utf-8")))
    return frozenset(title.replace("/", ".") for title in titles)


@functools.cache
def defined(name: str) -> bool:
    """Whether a dotted name is a module of ours or of a documented example, or something that a module of ours defines."""
    if name in documented():
        return True
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        base = PROJECT_ROOT.joinpath(*parts[:count])
        file = base.with_suffix(".py") if base.with_suffix(".py").is_file() else base / "__init__.py"
        if file.is_file():
            return (
                count == len(parts) or re.search(rf"\b{parts[count]}\b", file.read_text(encoding="utf-8")) is not None
            )
    return False


def imports_of_ours(tree: ast.Module) -> int:
    """How many dotted names of ours the import statements hold."""
    names: list[str] = []
    for node in statements(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
    return sum(MODULE_NAME.fullmatch(name) is not None for name in names)


def named_modules() -> list[tuple[str, str]]:
    """Dotted names of ours in strings of the code, and in every other text file that the project commits."""
    listed = subprocess.run(["git", "ls-files"], cwd=PROJECT_ROOT, capture_output=True, text=True, check=False).stdout
    texts: list[tuple[str, str]] = []
    for name in listed.splitlines():
        file = PROJECT_ROOT / name
        if not file.is_file() or file.suffix in {".lock", ".html"} or name.startswith((".dvc/", "LICENSE")):
            continue
        if file.suffix == ".py":
            source = file.read_text()
            tree = ast.parse(source)
            if len(MODULE_NAME.findall(source)) == imports_of_ours(tree):
                continue  # no other name of ours in the file: most need no walk through all their expressions
            constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant))
            texts += [(name, node.value) for node in constants if isinstance(node.value, str)]
        elif file.suffix in {".md", ".yaml", ".toml", ".sh", ".hcl", ""}:
            texts.append((name, file.read_text(encoding="utf-8", errors="replace")))
    return [
        (file, match.group(1))
        for file, text in texts
        for match in MODULE_NAME.finditer(NOT_MODULES.sub("", text.replace("\\\n", "")))
    ]


def test_every_module_that_a_string_names_exists() -> None:
    """``python -m`` commands, ``monkeypatch`` targets, cross-references: a renamed module must not leave one behind."""
    names = named_modules()
    assert len(names) > 20
    assert sorted({(file, name) for file, name in names if not defined(name)}) == []
    assert not defined(".".join(["mistere", "common", "renamed"])) and not defined(".".join(["components", "renamed"]))


def test_git_ignores_no_source_file() -> None:
    """An unanchored pattern of ``.gitignore`` would lose a package of that name, and image tags would count the file."""
    listing = [
        "git",
        "ls-files",
        "--others",
        "--ignored",
        "--exclude-standard",
        "--",
        "mistere",
        "components",
        "pipelines",
    ]
    done = subprocess.run(listing, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    assert [name for name in done.stdout.splitlines() if name.endswith((".py", ".html", ".md", ".yaml", ".json"))] == []
    packages = {
        file.parent for layer in ("mistere", "components", "pipelines") for file in (PROJECT_ROOT / layer).rglob("*.py")
    }
    assert sorted(str(folder) for folder in packages if not (folder / "__init__.py").is_file()) == []
