"""The CI workflows: valid, least privilege, pinned, and what they run exists."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from mistere.config.loader import available_profiles
from pipelines.cli.app import app
from pipelines.profiles import PROFILES

ROOT = Path(__file__).resolve().parents[3]
WORKFLOWS = {path.stem: path for path in sorted((ROOT / ".github" / "workflows").glob("*.yaml"))}
PERMISSIONS = {
    ("checks", "check"): {"contents": "read"},
    ("checks", "test"): {"contents": "read"},
    ("retrain", "retrain"): {"contents": "read", "id-token": "write"},
    ("retrain", "comment"): {"pull-requests": "write"},
}


def load(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load(WORKFLOWS[name].read_text()))


def jobs() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for name in WORKFLOWS:
        for job, content in load(name)["jobs"].items():
            yield name, job, content


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, job, content in jobs():
        for step in content["steps"]:
            yield f"{name}/{job}", step


SCRIPTS = [(where, step["run"]) for where, step in steps() if "run" in step]


def documented_pipeline() -> str:
    """The GitLab example of the docs."""
    blocks = re.findall(
        r"```yaml\n(# \.gitlab-ci\.yml\n.*?)```",
        (ROOT / "docs" / "guides" / "ci.md").read_text(encoding="utf-8"),
        re.DOTALL,
    )
    (block,) = blocks
    return str(block)


def check_schema(schema: str, *files: Path) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_they_are_workflows_by_the_schema() -> None:
    assert set(WORKFLOWS) == {"checks", "retrain"}
    check_schema("vendor.github-workflows", *WORKFLOWS.values())


def test_the_documented_gitlab_pipeline_is_one_by_the_schema(tmp_path: Path) -> None:
    (tmp_path / ".gitlab-ci.yml").write_text(documented_pipeline())
    check_schema("vendor.gitlab-ci", tmp_path / ".gitlab-ci.yml")


def test_each_job_has_the_rights_it_needs_and_no_other() -> None:
    for name in WORKFLOWS:
        assert load(name)["permissions"] == {}
    assert {(name, job): content["permissions"] for name, job, content in jobs()} == PERMISSIONS
    for name, job, content in jobs():
        if "write" in content["permissions"].values() and "id-token" not in content["permissions"]:
            assert not any("uses" in step for step in content["steps"]), (
                f"{name}/{job} may write: no code of others in it"
            )


def test_actions_are_pinned_by_commit_with_their_version_beside() -> None:
    for path in WORKFLOWS.values():
        used = [line for line in path.read_text().splitlines() if "uses:" in line]
        assert used
        for line in used:
            assert re.search(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line
    for where, step in steps():
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False, where


def test_no_secret_value_is_written_and_none_reaches_a_script_but_by_environment() -> None:
    for path in WORKFLOWS.values():
        assert not re.search(
            r"AKIA[0-9A-Z]{16}|ghp_|glpat-|hooks\.slack|aws-access-key-id|-----BEGIN", path.read_text()
        )
    for where, script in SCRIPTS:
        assert "${{" not in script, f"{where}: what a person or a branch is called would be run as a script"
    named = set(re.findall(r"secrets\.(\w+)", "".join(path.read_text() for path in WORKFLOWS.values())))
    assert named == {"KFP_TOKEN"}
    for _, step in steps():
        assert "secrets." not in str({key: value for key, value in step.items() if key != "env"})


def test_what_the_retraining_takes_of_the_repository_is_said_at_its_top() -> None:
    text = WORKFLOWS["retrain"].read_text()
    top = text.partition("\nname:")[0]
    for name in set(re.findall(r"(?:vars|secrets)\.(\w+)", text)):
        assert name in top, name


def test_jobs_end_and_do_not_run_over_each_other() -> None:
    for _, job, content in jobs():
        assert 0 < content["timeout-minutes"] < 360, job
    assert load("checks")["concurrency"]["group"] == "checks-${{ github.ref }}"
    retrain = load("retrain")["concurrency"]
    assert retrain == {"group": "retrain", "cancel-in-progress": False}


def test_when_the_retraining_starts() -> None:
    triggers = load("retrain")[True]  # YAML reads `on` as true
    assert triggers["push"] == {"branches": ["main"], "paths": ["data.dvc"]}
    assert all(len(one["cron"].split()) == 5 for one in triggers["schedule"])
    profile = triggers["workflow_dispatch"]["inputs"]["profile"]
    assert {*profile["options"], profile["default"]} <= set(available_profiles(PROFILES))
    assert "pull_request" not in triggers and "pull_request_target" not in triggers


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = {target for _, script in SCRIPTS for target in re.findall(r"\bmake ([a-z0-9-]+)", script)}
    assert used and used <= targets


def mistere_commands(script: str) -> list[list[str]]:
    """What follows ``mistere`` in a script, up to what the shell does with it."""
    return [
        shlex.split(rest)
        for line in script.splitlines()
        for rest in re.findall(r"(?:^|[\s/])mistere ((?:(?!\s[>|&;]|$).)+)", line)
    ]


def parse(arguments: list[str]) -> None:
    """As the command itself would, without running it."""
    group = typer.main.get_command(app)
    name, *rest = arguments
    command = group.commands.get(name)  # type: ignore[attr-defined]
    if command is None and name == "submit":
        pytest.skip("there is no `mistere submit`")
    assert command is not None, f"there is no `mistere {name}`"
    try:
        command.make_context(name, rest)
    except Exception as error:  # the command line parser's own, which typer keeps to itself
        pytest.fail(f"mistere {' '.join(arguments)}: {error}")


CALLS = [call for _, script in SCRIPTS for call in mistere_commands(script)]


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_every_command_exists_with_its_options(call: list[str]) -> None:
    parse(call)


def test_commands_are_found_in_scripts() -> None:
    assert [call[0] for call in CALLS] == ["submit", "submit", "gate-table"]
    with pytest.raises(pytest.fail.Exception, match="--no-such-option"):
        parse(["gate-table", "--no-such-option"])


def test_the_gitlab_pipeline_s_commands_exist() -> None:
    content = yaml.safe_load(documented_pipeline())
    scripts = [line for job in content.values() if isinstance(job, dict) for line in job.get("script", [])]
    calls = [call for line in scripts for call in mistere_commands(line)]
    assert calls
    for call in calls:
        parse(call)


@pytest.mark.parametrize("script", [script for _, script in SCRIPTS])
def test_scripts_are_bash(script: str) -> None:
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_the_table_goes_to_every_pull_request_that_brought_the_commit(tmp_path: Path) -> None:
    """The comment's script with a `gh` that writes down what it is asked."""
    (script,) = (script for where, script in SCRIPTS if where == "retrain/comment")
    gh = tmp_path / "gh"
    gh.write_text(
        "#!/bin/bash\n"
        'if [ "$2" = repos/o/r/commits/abc/pulls ]; then printf "7\\n12\\n"; exit; fi\n'
        f'echo "$@" >> {tmp_path}/asked; cat >> {tmp_path}/asked; echo >> {tmp_path}/asked\n'
    )
    gh.chmod(0o755)
    table = "### ✅ `$(touch /tmp/no)` | a | b |\n| -n | %s |"
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "GITHUB_REPOSITORY": "o/r", "GITHUB_SHA": "abc", "TABLE": table}
    subprocess.run(["bash", "-eo", "pipefail", "-c", script], env=environment, check=True)
    asked = (tmp_path / "asked").read_text()
    for number in (7, 12):
        assert f"api --silent repos/o/r/issues/{number}/comments -F body=@-\n{table}\n" in asked


def test_the_table_is_summary_and_output_of_the_job(tmp_path: Path) -> None:
    """The step's script with a `mistere` that prints a table, and one that fails."""
    (script,) = (script for where, script in SCRIPTS if where == "retrain/retrain" and "gate-table" in script)
    command = tmp_path / ".venv" / "bin" / "mistere"
    command.parent.mkdir(parents=True)
    (tmp_path / "submit").write_text("version  v1, uploaded\nrun      20261125-1 in namespace mistere\n")
    for body, seen in (
        ('echo "$1 $2"; echo "c"', "gate-table 20261125-1\nc\n"),
        ("exit 1", "Run 20261125-1 has recorded nothing yet.\n"),
        (None, "No run was started.\n"),
    ):
        if body is None:
            (tmp_path / "submit").unlink()
        command.write_text(f"#!/bin/bash\n{body}\n")
        command.chmod(0o755)
        places = {name: str(tmp_path / name) for name in ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT")}
        for place in places.values():
            Path(place).write_text("")
        environment = {"PATH": "/usr/bin:/bin", "RUNNER_TEMP": str(tmp_path), **places}
        subprocess.run(["bash", "-eo", "pipefail", "-c", script], cwd=tmp_path, env=environment, check=True)
        assert (tmp_path / "GITHUB_STEP_SUMMARY").read_text() == seen
        output = (tmp_path / "GITHUB_OUTPUT").read_text()
        if body is None:
            assert output == "", "nothing to comment on"
            continue
        assert re.fullmatch(rf"table<<(end-[0-9a-f]{{32}})\n{re.escape(seen)}\1\n", output), output
