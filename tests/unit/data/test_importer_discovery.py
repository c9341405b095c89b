"""One new file adds an importer: a copy of the code with the docs page's example runs `mistere data import NAME`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from mistere.common.errors import UsageError
from mistere.common.paths import PROJECT_ROOT
from mistere.corpora.import_report import ImportReport
from mistere.corpora.importer import DECLARED, Importer, Option, TextOnly, importer
from mistere.corpora.importers import importers
from tests.local.workshop import make_dataset
from tests.unit.data.corpus_files import read

PAGE = PROJECT_ROOT / "docs" / "extending" / "importer.md"
PRINT_LOADED_MODULES = (
    "import sys; from pipelines.cli.app import main\ntry: main()\nfinally: print(*sorted(sys.modules))"
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code with the docs page's importer."""
    copy = tmp_path_factory.mktemp("tree")
    for package in ("mistere", "components", "pipelines"):
        shutil.copytree(PROJECT_ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    block = re.search(r'```python title="(.*?)"\n(.*?)```', PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    (copy / block[1]).write_text(block[2], encoding="utf-8")
    return copy


@pytest.fixture
def transcripts(tmp_path: Path) -> Path:
    folder = tmp_path / "talks"
    folder.mkdir()
    for dialogue in "abc":
        (folder / f"{dialogue}.txt").write_text(
            f"Anna | calm | Good morning, {dialogue}.\nTom | angry | You are late.\n"
        )
    return folder


def run_mistere(
    tree: Path, *arguments: str, code: str = "from pipelines.cli.app import main; main()"
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_new_importer_file_adds_a_command(tree: Path, transcripts: Path, tmp_path: Path) -> None:
    imports_help = run_mistere(tree, "data", "import", "--help")
    assert imports_help.returncode == 0 and "transcripts" in imports_help.stdout and "meld" in imports_help.stdout
    command_help = run_mistere(tree, "data", "import", "transcripts", "--help").stdout
    assert (
        all(option in command_help for option in ("--language", "--case", "--max-turns"))
        and "[default: en]" in command_help
    )
    target = tmp_path / "out"
    result = run_mistere(
        tree, "data", "import", "transcripts", str(transcripts), str(target), "--case", "lower", "--max-turns", "2"
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{target}: train 2, dev 2, test 2 utterances in 3 dialogues\n"
    assert [(u.speaker, u.label, u.text) for u in read(target, "train")] == [
        ("Anna", "calm", "good morning, c."),
        ("Tom", "angry", "you are late."),
    ]
    assert "transcripts" not in importers()


@pytest.mark.long
@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--case", "upper"], 2, "--case upper: choose keep or lower."),
        (["--max-turns", "-1"], 2, "--max-turns"),
        (["--no-such-option"], 2, "--no-such-option"),
    ],
)
def test_new_importer_rejects_an_invalid_option(
    tree: Path, transcripts: Path, tmp_path: Path, options: list[str], code: int, message: str
) -> None:
    result = run_mistere(tree, "data", "import", "transcripts", str(transcripts), str(tmp_path / "out"), *options)
    assert (result.returncode, result.stderr.count("\n")) == (code, 1) and message in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_new_importer_rejects_an_invalid_source(tree: Path, transcripts: Path, tmp_path: Path) -> None:
    (transcripts / "b.txt").write_text("no bars\n")
    result = run_mistere(tree, "data", "import", "transcripts", str(transcripts), str(tmp_path / "out"))
    assert result.returncode == 4 and "b.txt, line 1" in result.stderr and result.stderr.count("\n") == 1
    result = run_mistere(tree, "data", "import", "transcripts", str(transcripts / ".."), str(tmp_path / "out"))
    assert result.returncode == 2 and "holds no transcript" in result.stderr


def test_discovery_imports_no_heavy_module_and_runs_on_demand() -> None:
    loaded = set(run_mistere(PROJECT_ROOT, "data", "import", "--help", code=PRINT_LOADED_MODULES).stdout.split())
    assert "mistere.corpora.importers.meld" in loaded
    assert not loaded & {"torch", "numpy", "pandas", "pyarrow", "soundfile", "transformers", "kfp", "mlflow"}
    assert (
        "mistere.corpora.importers" not in run_mistere(PROJECT_ROOT, "--help", code=PRINT_LOADED_MODULES).stdout.split()
    )


def test_options_take_types_defaults_and_names_from_parameters() -> None:
    options = {option.name: option for option in importers()["table"].options()}
    assert options["columns"].flag == "--column" and options["missing_audio"].choices == ("fail", "missing")
    assert options["audio"].type is Path and options["audio"].default is None
    assert options["text_only"].type is bool and options["text_only"].default is False
    assert options["splits"].value(options["splits"].default) == (0.8, 0.1, 0.1)
    assert options["labels"].value("b, a,") == ["b", "a"] and options["labels"].value("") == []
    assert options["columns"].value(["label=emotion"]) == {"label": "emotion"}
    with pytest.raises(UsageError, match="write it as NAME=COLUMN"):
        options["columns"].value(["label"])


def without_help(source: Path, directory: Path, *, plain: int = 3) -> ImportReport:
    raise AssertionError


def without_default(source: Path, directory: Path, *, needed: Annotated[int, Option("Needed.")]) -> ImportReport:
    raise AssertionError


def with_list_type(source: Path, directory: Path, *, names: Annotated[list[str], Option("N.")] = []) -> ImportReport:  # noqa: B006
    raise AssertionError


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (without_help, "parameter plain must be keyword-only, have a default and the type"),
        (without_default, "parameter needed must be keyword-only"),
        (with_list_type, "parameter names has the type .* set `parse`"),
    ],
)
def test_invalid_option_declaration_is_rejected(function: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Importer("new", "", "", function).options()


def test_duplicate_importer_name_is_rejected() -> None:
    importers()
    before = dict(DECLARED)
    with pytest.raises(
        ValueError, match=r"declares the importer meld, which mistere\.corpora\.importers\.meld declares"
    ):
        importer("meld", help="")(without_help)
    assert before == DECLARED


def test_integer_choices_and_flags_reach_the_function(tmp_path: Path) -> None:
    received: dict[str, Any] = {}

    def function(
        source: Path,
        directory: Path,
        *,
        classes: Annotated[Literal[6, 4], Option("Classes.")] = 6,
        text_only: TextOnly = False,
    ) -> ImportReport:
        received.update(classes=classes, text_only=text_only)
        return ImportReport({}, {})

    made = make_dataset(tmp_path / "tones")
    Importer("new", "", "", function).run(tmp_path, made, {"classes": 4, "text_only": True})
    assert (made / "croissant.json").is_file()
    assert received == {"classes": 4, "text_only": True}
