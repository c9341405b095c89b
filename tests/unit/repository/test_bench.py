"""Benchmarks end as commands do: what the user can resolve is one line and an exit code, a defect keeps its traceback."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mistere.common.processes.child_environment import child_environment
from pipelines.cli.commands import bench_script

SERVING = ["dialogue_length", "score", "serve", "serving_fairness", "serving_speed", "shadow", "stream"]
NO_EMBEDDINGS = {"context_turns": ["{}"], "published_settings": ["{}"], "meld_text": ["{}", "{}"]}


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, env=child_environment(), check=False
    )


@pytest.mark.parametrize(
    ("line", "code", "sentence"),
    [
        ("raise UsageError('nothing is deployed: run `mistere run` first.')", 2, "nothing is deployed"),
        ("raise DataError('the split is empty.')", 4, "the split is empty"),
        ("sys.exit('it did not start')", 1, "it did not start"),
        ("open('/nowhere/at/all')", 1, "/nowhere/at/all: no such file"),
        (
            "subprocess.run([sys.executable, '-c', 'import sys; sys.exit(\"no arm\")'], check=True, stderr=-1, text=True)",
            1,
            "an arm ended with exit code 1: no arm",
        ),
    ],
)
def test_an_expected_error_is_one_line(tmp_path: Path, line: str, code: int, sentence: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"import subprocess, sys\nfrom mistere.common.errors import DataError, UsageError\n{line}\n")
    done = run(bench_script.__name__, str(script))
    assert done.returncode == code and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"mistere: {sentence}"), done.stderr
    assert "Traceback" in run(bench_script.__name__, bench_script.VERBOSE, str(script)).stderr


def test_a_script_is_a_main_program_with_its_arguments(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys\nif __name__ == '__main__':\n    print(__file__, sys.argv)\n    sys.exit(5)\n")
    done = run(bench_script.__name__, str(script), "--turns", "3")
    assert done.returncode == 5 and done.stdout.split(maxsplit=1)[0] == str(script)
    assert done.stdout.endswith(f"['{script}', '--turns', '3']\n")
    script.write_text("1 / 0\n")
    assert "ZeroDivisionError" in run(bench_script.__name__, str(script)).stderr


def test_a_benchmark_that_is_stopped_ends_what_it_started(tmp_path: Path) -> None:
    script, ended = tmp_path / "script.py", tmp_path / "ended"
    script.write_text(
        "import pathlib, sys, time\ntry:\n    print('started', flush=True)\n    time.sleep(60)\n"
        f"finally:\n    pathlib.Path({str(ended)!r}).touch()\n"
    )
    command = [sys.executable, "-m", bench_script.__name__, str(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=child_environment()) as process:
        assert process.stdout is not None and process.stdout.readline() == b"started\n"
        process.terminate()
        assert process.communicate(timeout=30)[1] == b""
    assert process.returncode == 143 and ended.is_file()


@pytest.mark.long
@pytest.mark.parametrize("name", [*SERVING, *NO_EMBEDDINGS])
def test_without_its_input_a_benchmark_says_what_to_do(tmp_path: Path, name: str) -> None:
    nowhere = str(tmp_path / "nowhere")
    arguments = [one.format(nowhere) for one in NO_EMBEDDINGS.get(name, ["--output", "{}"])]
    done = run("mistere", "bench", name, *arguments)
    assert done.returncode in {1, 2, 4}, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("mistere: "), done.stderr
