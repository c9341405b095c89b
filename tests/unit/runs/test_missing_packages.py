"""Whatever command needs an optional package or program: without it, one sentence says what to install, with exit code 2."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mistere.common.errors import ExitCode, MissingPackageError
from mistere.common.paths import PROJECT_ROOT
from tests.local.workshop import mistere_in_process
from tests.unit.traffic.monitored_store import make_champion

CLIP = b"\0\0\0\x18ftypmp42" + bytes(64)
INSTALL = re.compile(r"\b(?:pip|apt-get) install ")
USAGE = {"MissingPackageError", "UsageError", "missing_package"}
REINSTALLED = {
    ("mistere/corpora/sample/synthesis.py", "MistereError"),
    ("mistere/model/encoders/sources.py", "MistereError"),
}
"""Where what is installed does not work."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a table, a file of features, a video and a released bundle, on a machine without ffmpeg."""
    from mistere.artifacts.object_store import LocalStore

    (tmp_path / "t.csv").write_text("dialogue_id,turn,text,audio,label\na,0,Hello.,clip.mp4,joy\na,1,No.,,anger\n")
    (tmp_path / "clip.mp4").write_bytes(CLIP)
    (tmp_path / "a.csd").write_bytes(b"")
    make_champion(LocalStore(tmp_path / "output" / "store"), tmp_path / "bundle", None)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("MISTERE_STORE", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("package", "command", "sentence"),
    [
        ("espeakng_loader", "data sample {}/new", "making the sample needs the speech synthesizer espeak-ng"),
        ("h5py", "data import table {0}/t.csv {0}/new --text-only --features face={0}/a.csd", "needs h5py"),
        ("", "data import table {0}/t.csv {0}/new --audio {0}", "and ffmpeg, which would read it,"),
        ("gradio", "demo --output {}/output", "the page needs gradio"),
        ("onnx", "export {0}/new --output {0}/output", "an export needs onnx"),
        ("onnxruntime", "export {0}/new --output {0}/output", "an export needs onnxruntime"),
    ],
)
def test_every_command_names_it_and_ends_with_the_same_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch, package: str, command: str, sentence: str
) -> None:
    if package:
        monkeypatch.setitem(sys.modules, package, None)
    before = sorted(folder.iterdir())
    result = mistere_in_process(*command.format(folder).split())
    assert result.returncode == ExitCode.USAGE, result.stderr
    (line,) = result.stderr.strip().splitlines()
    assert sentence in line and "not installed" in line and INSTALL.search(line), line
    assert sorted(folder.iterdir()) == before, "a refused command leaves nothing"


def raised(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Class and text of what is raised or returned as an error."""
    for node in ast.walk(tree):
        value = node.exc if isinstance(node, ast.Raise) else node.value if isinstance(node, ast.Return) else None
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id.endswith("Error"):
            texts = (one.value for one in ast.walk(value) if isinstance(one, ast.Constant))
            yield value.func.id, "".join(str(text) for text in texts)


def test_every_error_that_names_a_package_to_install_is_a_usage_error() -> None:
    named = {
        (file.relative_to(PROJECT_ROOT).as_posix(), name)
        for layer in ("mistere", "components", "pipelines")
        for file in (PROJECT_ROOT / layer).rglob("*.py")
        if INSTALL.search(source := file.read_text(encoding="utf-8"))
        for name, text in raised(ast.parse(source))
        if INSTALL.search(text)
    }
    assert len(named) > 8 and {one for one in named if one[1] not in USAGE} <= REINSTALLED
    assert MissingPackageError.exit_code == ExitCode.USAGE
