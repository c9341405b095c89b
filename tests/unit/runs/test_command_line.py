"""Conventions of the command: help, version, completion, colours, and which checkout's code it runs."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mistere.artifacts.object_store import LocalStore
from mistere.common.digests.code import git_state
from mistere.common.errors import ArtifactError, Interrupted, MistereError, UsageError
from mistere.common.paths import PROJECT_ROOT
from mistere.common.processes.child_environment import child_environment
from mistere.common.processes.standard_streams import GuardedStream
from pipelines.cli.app import app, main
from pipelines.cli.commands.registry.replay import command_module
from pipelines.cli.commands.run import _follow
from pipelines.cli.commands.serve import serve
from pipelines.cli.commands.settings import settings as list_settings
from pipelines.cli.output.task_progress import task_progress
from pipelines.compile import compile_pipeline, default_output
from pipelines.local_runner import LocalPipeline
from tests.unit.runs.recorded_run import RecordedRun


def run(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m mistere`` of this tree in ``cwd``, which Python searches first."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT), **variables}
    command = [sys.executable, "-m", "mistere", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)


def command_paths() -> list[list[str]]:
    """The path of every command and group."""

    def below(command: object, path: list[str]) -> list[list[str]]:
        children = getattr(command, "commands", {})
        return [path, *(subpath for name, child in children.items() for subpath in below(child, [*path, name]))]

    return below(typer.main.get_command(app), [])


@pytest.fixture
def decoys(tmp_path: Path) -> Path:
    """A user directory with packages named like ours."""
    for name in ("components", "pipelines"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the package of a user')\n")
    return tmp_path


def test_each_command_has_help_with_both_options(tmp_path: Path) -> None:
    code = (
        "import contextlib, io, sys; from pipelines.cli.app import app\n"
        "from typer.main import get_command\n"
        "tree = get_command(app)\n"
        "for number, path in enumerate(eval(sys.argv[1])):\n"
        "    option, shown = ('-h', '--help')[number % 2], io.StringIO()\n"
        "    with contextlib.redirect_stdout(shown):\n"
        "        try:\n"
        "            code = tree.main([*path, option], prog_name='mistere', standalone_mode=True)\n"
        "        except SystemExit as ended:\n"
        "            code = ended.code\n"
        "    assert not code and '-h, --help' in shown.getvalue(), (path, option, shown.getvalue())\n"
        "heavy = {'torch', 'pandas', 'kfp', 'mlflow', 'kserve', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    paths = command_paths()
    assert len(paths) > 25
    done = subprocess.run(
        [sys.executable, "-c", code, repr(paths)],
        cwd=tmp_path, env=child_environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_command_list_shows_untruncated_descriptions(tmp_path: Path) -> None:
    for path in ([], ["data"], ["schedule"], ["data", "import"]):
        command = typer.main.get_command(app)
        for name in path:
            command = command.commands[name]  # type: ignore[attr-defined]
        listed = " ".join(run(*path, "-h", cwd=tmp_path).stdout.partition("\nCommands:\n")[2].split())
        for name, child in command.commands.items():  # type: ignore[attr-defined]
            first = " ".join((child.help or "").split("\n\n")[0].split())
            assert first and f"{name} {first}" in listed, (path, name)
        assert "..." not in listed


def test_output_without_a_reader_ends_the_command_like_sigpipe(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "mistere", "--help"]
    done = subprocess.run(
        command, cwd=tmp_path, env=child_environment(), stdout=writer, stderr=subprocess.PIPE, timeout=120, check=False
    )
    os.close(writer)
    assert done.returncode == 141 and done.stderr == b""


def test_a_run_whose_output_nobody_reads_ends_with_its_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    events = tmp_path / "events.jsonl"
    event = {"event": "done", "time": 0.0, "task": "pull_data", "seconds": 1.0, "message": ""}
    events.write_text(json.dumps(event) + "\n")
    with os.fdopen(writer, "w") as output, subprocess.Popen(["sleep", "100"], start_new_session=True) as stages:
        monkeypatch.setattr(sys, "stdout", GuardedStream(output))
        with pytest.raises(SystemExit) as ended:
            _follow(LocalPipeline(stages, threading.Thread()), events, LocalStore(tmp_path))
        assert ended.value.code == 141 and stages.wait(10) == -signal.SIGKILL


def test_a_group_without_a_command_shows_its_help(tmp_path: Path) -> None:
    for path in ([], ["data"]):
        done = run(*path, cwd=tmp_path)
        assert done.returncode == 0 and done.stderr == ""
        assert done.stdout == run(*path, "-h", cwd=tmp_path).stdout


def test_ctrl_c_ends_a_command_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.cli.commands.settings.settings", interrupt)
    monkeypatch.setattr(sys, "argv", ["mistere", "settings"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130 and "Traceback" not in capsys.readouterr().err
    monkeypatch.setattr("pipelines.cli.commands.run.time.sleep", interrupt)
    with subprocess.Popen(["sleep", "100"], start_new_session=True) as stages:
        with pytest.raises(Interrupted, match="interrupted; finished steps are kept"):
            _follow(LocalPipeline(stages, threading.Thread()), tmp_path / "none", LocalStore(tmp_path))
        assert stages.wait(10) == -signal.SIGKILL and Interrupted.exit_code == 130


def test_compile_creates_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_output() == Path("pipelines/retraining.yaml" if Path.cwd() == PROJECT_ROOT else "retraining.yaml")
    monkeypatch.chdir(tmp_path)
    assert default_output() == Path("retraining.yaml")
    with pytest.raises(
        UsageError, match=r"there is no folder missing for file.yaml: create it, or write the file elsewhere"
    ):
        compile_pipeline("tiny", [], Path("missing/file.yaml"))
    assert list(tmp_path.iterdir()) == []


def test_serve_refuses_a_wrong_bundle_or_port_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTERE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UsageError, match=r"there is no bundle at nowhere: name STORE/artifacts/ModelBundle/DIGEST"):
        serve("nowhere", tmp_path, "127.0.0.1", 8080, 8081, {})
    with pytest.raises(UsageError, match="--port and --grpc-port are both 8080"):
        serve("nowhere", tmp_path, "127.0.0.1", 8080, 8080, {})
    missing = tmp_path / "artifacts" / "ModelBundle" / ("f" * 64)
    with pytest.raises(ArtifactError, match="ModelBundle ffffffffffff is not in the store"):
        serve(str(missing), tmp_path, "127.0.0.1", 8080, 8081, {})
    bundle = RecordedRun(tmp_path).bundle({"test.weighted_f1": 0.5})
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        with pytest.raises(MistereError, match=rf"Port {port} is already in use: .*or choose another --port\."):
            serve(str(missing.with_name(bundle)), tmp_path, "127.0.0.1", port, 8081, {})
    assert "serving" not in capsys.readouterr().out
    refused = CliRunner().invoke(app, ["serve", "--port", "70000"])
    assert (
        refused.exit_code == 2
        and "Invalid value for '--port': Input should be less than or equal to 65535" in refused.output
    )


def test_a_task_without_a_terminal_prints_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with task_progress("reading", seconds=0.01) as advance:
        advance("rows", 1, 4)
        deadline = time.monotonic() + 5
        while "reading: 0 s, 25 %" not in (printed := capsys.readouterr().err) and time.monotonic() < deadline:
            time.sleep(0.01)
    assert "reading: 0 s, 25 %\n" in printed


def test_settings_are_listed_with_default_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    list_settings(None, None, as_json=False)
    overview = capsys.readouterr().out
    assert (
        re.search(r"^gate +\d+ settings  Thresholds", overview, re.MULTILINE)
        and "seed            1 setting " in overview
    )
    list_settings("gate.min_class_f1", "tiny", as_json=False)
    name, *rest = capsys.readouterr().out.splitlines()
    assert name == "gate.min_class_f1 = 0.1" and "[number or off (≥ 0, ≤ 1)]" in rest[-1]
    list_settings("mixture", "tiny", as_json=True)
    listed = {setting["name"]: setting for setting in json.loads(capsys.readouterr().out)}
    assert listed["mixture.epochs"]["profile"] and all(name.startswith("mixture.") for name in listed)
    for wrong, hint in (
        ("learning_rate", r"did you mean '(mixture|text|speech).learning_rate', "), ("gat", "did you mean 'gate'"),
        ("zzz", "the sections are seed, data, "),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=f"there is no section or setting '{wrong}'; {hint}"):
            list_settings(wrong, None, as_json=False)


def test_version_shows_commit_python_and_torch(tmp_path: Path) -> None:
    done = run("--version", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    commit = git_state()[0][:12]
    assert f"commit {commit}" in done.stdout if commit else "no commit known" in done.stdout
    assert f"Python {'.'.join(map(str, sys.version_info[:3]))}" in done.stdout
    assert f"torch {version('torch')}" in done.stdout and re.match(r"mistere \d+\.\d+", done.stdout)


def test_shell_completion_installs_and_completes(tmp_path: Path) -> None:
    command = f"{sys.executable} -m mistere --install-completion; exit $?"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT), "HOME": str(tmp_path)}
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (script,) = [file.read_text() for file in (tmp_path / ".bash_completions").iterdir()]
    assert "_MISTERE_COMPLETE=complete_bash" in script
    words = {"_MISTERE_COMPLETE": "complete_bash", "COMP_WORDS": "mistere rol", "COMP_CWORD": "1"}
    assert run(cwd=tmp_path, **words).stdout.split() == ["rollback"]


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_no_color_disables_colours(tmp_path: Path, variables: dict[str, str], coloured: bool) -> None:
    """``data check`` prints its verdict in colour on a terminal; colour codes are 30 to 37 and similar."""
    directory = PROJECT_ROOT / "tests"
    code = (
        "from rich.text import Text; from pipelines.cli.commands.data.check import _COLOURS, OutputConsole\n"
        "OutputConsole(highlight=False).print(Text('REJECT', style=_COLOURS['reject']))"
    )
    environment = {**child_environment(), "TERM": "xterm-256color", **variables}
    if not variables:
        environment.pop("NO_COLOR", None)
    reader, terminal = pty.openpty()
    try:
        subprocess.run(
            [sys.executable, "-c", code], cwd=directory, env=environment, stdout=terminal, timeout=120, check=True
        )
        output = os.read(reader, 4096).decode()
    finally:
        os.close(reader)
        os.close(terminal)
    assert "REJECT" in output
    assert bool(re.search(r"\x1b\[(?:\d+;)*3[0-7]m", output)) is coloured, output


def test_command_runs_its_own_code_despite_shadowing_packages(decoys: Path) -> None:
    for done in (run("--version", cwd=decoys), run("--version", cwd=decoys, PYTHONPATH=f"{decoys}:{PROJECT_ROOT}")):
        assert done.returncode == 0 and done.stdout.startswith("mistere "), done.stderr


@pytest.mark.parametrize("command", [["mistere"], ["python", "-P", "-m", "mistere"]])
def test_command_ignores_a_foreign_library_in_the_current_directory(command: list[str], decoys: Path) -> None:
    (decoys / "mistere").mkdir()
    (decoys / "mistere" / "__init__.py").write_text("raise RuntimeError('the package of a user')\n")
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONSAFEPATH"}}
    program = str(Path(sys.executable).with_name(command[0]))
    done = subprocess.run(
        [program, *command[1:], "--version"], cwd=decoys, env=environment, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.startswith("mistere "), done.stderr


def test_command_runs_the_checkout_of_the_current_directory(tmp_path: Path) -> None:
    for name in ("mistere", "components", "pipelines"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    (tmp_path / "mistere" / "__main__.py").write_bytes((PROJECT_ROOT / "mistere" / "__main__.py").read_bytes())
    (tmp_path / "pipelines" / "cli").mkdir()
    (tmp_path / "pipelines" / "cli" / "app.py").write_text("def main():\n    raise SystemExit('this tree')\n")
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONSAFEPATH"}}
    done = subprocess.run(
        [sys.executable, "-m", "mistere"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stderr == "this tree\n"


def test_error_names_a_shadowing_package(decoys: Path) -> None:
    (decoys / "pipelines" / "__init__.py").write_text("")
    (decoys / "sitecustomize.py").write_text("import pipelines\n")
    done = run("--version", cwd=PROJECT_ROOT, PYTHONPATH=str(decoys))
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(f"mistere: Python imports the package 'pipelines' from {decoys / 'pipelines'}, ")
    assert done.stderr.count("\n") == 1


def test_child_processes_import_our_packages_despite_shadowing_packages(
    decoys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(decoys))
    environment = child_environment(EXTRA="1")
    assert environment["PYTHONPATH"] == f"{PROJECT_ROOT}{os.pathsep}{decoys}" and environment["EXTRA"] == "1"
    for module in ("components", "pipelines", "mistere.common"):
        code = f"import {module}; print({module}.__file__)"
        # A grandchild started with -m searches its current directory first, unless the environment disables it.
        nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}], check=True)"
        done = subprocess.run(
            [sys.executable, "-c", nested], cwd=decoys, env=environment, capture_output=True, text=True, check=False
        )
        assert done.stdout.startswith(str(PROJECT_ROOT)), done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.images", "--tag"], cwd=decoys, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.stdout.startswith("src-"), done.stderr


def test_modules_start_python_with_the_child_environment() -> None:
    """Every ``python -m`` of our packages goes through ``child_environment``."""
    for layer in ("mistere", "components", "pipelines"):
        for file in (PROJECT_ROOT / layer).rglob("*.py"):
            text = file.read_text(encoding="utf-8")
            if file.name != "child_environment.py":
                assert '"PYTHONPATH"' not in text, file
            if re.search(r'sys\.executable, "-m", (_WORKER|"(?:mistere|components|pipelines|torch))', text):
                assert "child_environment" in text, file


def test_replay_supports_the_command_of_older_commits(tmp_path: Path) -> None:
    assert command_module(PROJECT_ROOT) == "mistere"
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "cli.py").write_text("print('the command')\n")
    assert command_module(tmp_path) == "pipelines.cli"
    done = subprocess.run(
        [sys.executable, "-m", command_module(tmp_path)], cwd=tmp_path, env=child_environment(tmp_path),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "the command\n", done.stderr
