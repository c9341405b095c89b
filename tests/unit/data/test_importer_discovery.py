"""An importer is one new file: a copy of the tree with the file of the docs page runs `mistere data import NAME`."""

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
from tests.unit.data.corpus_files import read

PAGE = PROJECT_ROOT / "docs" / "extending" / "importer.md"
LOADED = "import sys; from pipelines.cli.app import main\ntry: main()\nfinally: print(*sorted(sys.modules))"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code with the importer of the docs page."""
    copy = tmp_path_factory.mktemp("tree")
    for storey in ("mistere", "components", "pipelines"):
        shutil.copytree(PROJECT_ROOT / storey, copy / storey, ignore=shutil.ignore_patterns("__pycache__"))
    found = re.search(r'```python title="(.*?)"\n(.*?)```', PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    (copy / found[1]).write_text(found[2], encoding="utf-8")
    return copy


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    folder = tmp_path / "talks"
    folder.mkdir()
    for dialogue in "abc":
        (folder / f"{dialogue}.txt").write_text(
            f"Anna | calm | Good morning, {dialogue}.\nTom | angry | You are late.\n"
        )
    return folder


def mistere(
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


def test_a_new_file_is_a_new_command(tree: Path, talks: Path, tmp_path: Path) -> None:
    listed = mistere(tree, "data", "import", "--help")
    assert listed.returncode == 0 and "transcripts" in listed.stdout and "meld" in listed.stdout
    helped = mistere(tree, "data", "import", "transcripts", "--help").stdout
    assert all(option in helped for option in ("--language", "--case", "--max-turns")) and "[default: en]" in helped
    target = tmp_path / "out"
    done = mistere(
        tree, "data", "import", "transcripts", str(talks), str(target), "--case", "lower", "--max-turns", "2"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{target}: train 2, dev 2, test 2 utterances in 3 dialogues\n"
    assert [(u.speaker, u.label, u.text) for u in read(target, "train")] == [
        ("Anna", "calm", "good morning, c."),
        ("Tom", "angry", "you are late."),
    ]
    assert "transcripts" not in importers()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--case", "upper"], 2, "--case upper: choose keep or lower."),
        (["--max-turns", "-1"], 2, "--max-turns"),
        (["--no-such-option"], 2, "--no-such-option"),
    ],
)
def test_a_wrong_option_of_a_new_importer(
    tree: Path, talks: Path, tmp_path: Path, options: list[str], code: int, message: str
) -> None:
    done = mistere(tree, "data", "import", "transcripts", str(talks), str(tmp_path / "out"), *options)
    assert (done.returncode, done.stderr.count("\n")) == (code, 1) and message in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_bad_source_of_a_new_importer(tree: Path, talks: Path, tmp_path: Path) -> None:
    (talks / "b.txt").write_text("no bars\n")
    done = mistere(tree, "data", "import", "transcripts", str(talks), str(tmp_path / "out"))
    assert done.returncode == 4 and "b.txt, line 1" in done.stderr and done.stderr.count("\n") == 1
    done = mistere(tree, "data", "import", "transcripts", str(talks / ".."), str(tmp_path / "out"))
    assert done.returncode == 4 and "holds no transcript" in done.stderr


def test_discovery_imports_nothing_heavy_and_only_when_needed() -> None:
    loaded = set(mistere(PROJECT_ROOT, "data", "import", "--help", code=LOADED).stdout.split())
    assert "mistere.corpora.importers.meld" in loaded
    assert not loaded & {"torch", "numpy", "pandas", "pyarrow", "soundfile", "transformers", "kfp", "mlflow"}
    assert "mistere.corpora.importers" not in mistere(PROJECT_ROOT, "--help", code=LOADED).stdout.split()


def test_options_have_the_types_defaults_and_names_of_the_parameters() -> None:
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


def with_a_list(source: Path, directory: Path, *, names: Annotated[list[str], Option("N.")] = []) -> ImportReport:  # noqa: B006
    raise AssertionError


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (without_help, "parameter plain must be keyword-only, have a default and the type"),
        (without_default, "parameter needed must be keyword-only"),
        (with_a_list, "parameter names has the type .* set `parse`"),
    ],
)
def test_a_declaration_that_makes_no_option_is_refused(function: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Importer("new", "", "", function).options()


def test_two_importers_of_one_name_are_refused() -> None:
    importers()
    before = dict(DECLARED)
    with pytest.raises(
        ValueError, match=r"declares the importer meld, which mistere\.corpora\.importers\.meld declares"
    ):
        importer("meld", help="")(without_help)
    assert before == DECLARED


def test_choices_of_whole_numbers_and_flags_reach_the_function(tmp_path: Path) -> None:
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

    Importer("new", "", "", function).run(tmp_path, tmp_path, {"classes": 4, "text_only": True})
    assert received == {"classes": 4, "text_only": True}
