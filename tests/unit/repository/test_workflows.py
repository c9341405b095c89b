"""CI workflows are valid, have least privilege, pin their actions, and run existing commands."""

from __future__ import annotations

import json
import re
import shlex
import shutil
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
    ("images", "sign"): {"contents": "read", "packages": "write", "id-token": "write"},
    ("retrain", "retrain"): {"contents": "read", "id-token": "write"},
    ("retrain", "approve"): {"actions": "read", "contents": "read", "id-token": "write"},
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


SCRIPTS = [(location, step["run"]) for location, step in steps() if "run" in step]


def documented_pipeline() -> str:
    """Return the GitLab example of the docs."""
    blocks = re.findall(
        r"```yaml\n(# \.gitlab-ci\.yml\n.*?)```",
        (ROOT / "docs" / "guides" / "ci.md").read_text(encoding="utf-8"),
        re.DOTALL,
    )
    (block,) = blocks
    return str(block)


def check_schema(schema: str, *files: Path) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *map(str, files)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_workflows_match_the_schema() -> None:
    assert set(WORKFLOWS) == {"checks", "images", "retrain"}
    check_schema("vendor.github-workflows", *WORKFLOWS.values())


def test_documented_gitlab_pipeline_matches_the_schema(tmp_path: Path) -> None:
    (tmp_path / ".gitlab-ci.yml").write_text(documented_pipeline())
    check_schema("vendor.gitlab-ci", tmp_path / ".gitlab-ci.yml")


def test_jobs_have_least_privilege() -> None:
    for name in WORKFLOWS:
        assert load(name)["permissions"] == {}
    assert {(name, job): content["permissions"] for name, job, content in jobs()} == PERMISSIONS
    for name, job, content in jobs():
        if "write" in content["permissions"].values() and "id-token" not in content["permissions"]:
            assert not any("uses" in step for step in content["steps"]), (
                f"{name}/{job} has write access: it must not use third-party actions"
            )


def test_actions_are_pinned_by_commit_with_a_version_comment() -> None:
    for path in WORKFLOWS.values():
        used = [line for line in path.read_text().splitlines() if "uses:" in line]
        assert used
        for line in used:
            assert re.search(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line
    for location, step in steps():
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False, location


def test_secrets_reach_scripts_through_the_environment_only() -> None:
    for path in WORKFLOWS.values():
        assert not re.search(
            r"AKIA[0-9A-Z]{16}|ghp_|glpat-|hooks\.slack|aws-access-key-id|-----BEGIN", path.read_text()
        )
    for location, script in SCRIPTS:
        assert "${{" not in script, f"{location}: an expression in a script allows command injection"
    named = set(re.findall(r"secrets\.(\w+)", "".join(path.read_text() for path in WORKFLOWS.values())))
    assert named == {"KFP_TOKEN"}
    for _, step in steps():
        assert "secrets." not in str({key: value for key, value in step.items() if key != "env"})


def test_retrain_header_documents_variables_and_secrets() -> None:
    text = WORKFLOWS["retrain"].read_text()
    top = text.partition("\nname:")[0]
    for name in set(re.findall(r"(?:vars|secrets)\.(\w+)", text)):
        assert name in top, name


def test_jobs_have_timeouts_and_concurrency_groups() -> None:
    for _, job, content in jobs():
        assert 0 < content["timeout-minutes"] < 360, job
    assert load("checks")["concurrency"]["group"] == "checks-${{ github.ref }}"
    for job, group in (("retrain", "retrain"), ("approve", "release")):
        assert load("retrain")["jobs"][job]["concurrency"] == {"group": group, "cancel-in-progress": False}
    assert "concurrency" not in load("retrain"), "a model that waits would keep the next retraining from starting"


def test_retrain_triggers_are_push_schedule_and_dispatch() -> None:
    triggers = load("retrain")[True]  # YAML reads `on` as true
    assert triggers["push"] == {"branches": ["main"], "paths": ["data.dvc"]}
    assert all(len(entry["cron"].split()) == 5 for entry in triggers["schedule"])
    profile = triggers["workflow_dispatch"]["inputs"]["profile"]
    assert {*profile["options"], profile["default"]} <= set(available_profiles(PROFILES))
    assert "pull_request" not in triggers and "pull_request_target" not in triggers


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = {target for _, script in SCRIPTS for target in re.findall(r"\bmake ([a-z0-9-]+)", script)}
    assert used and used <= targets


def mistere_commands(script: str) -> list[list[str]]:
    """Return the arguments of each ``mistere`` call in a script, without the shell's redirections."""
    return [
        shlex.split(rest)
        for line in script.splitlines()
        for rest in re.findall(r"(?:^|[\s/])mistere ((?:(?!\s[>|&;]|$).)+)", line)
    ]


def parse(arguments: list[str]) -> None:
    """Parse the arguments as the command does, without running it."""
    group = typer.main.get_command(app)
    name, *rest = arguments
    command = group.commands.get(name)  # type: ignore[attr-defined]
    if command is None and name == "submit":
        pytest.skip("there is no `mistere submit`")
    assert command is not None, f"there is no `mistere {name}`"
    try:
        command.make_context(name, rest)
    except Exception as error:  # typer does not export the parser's exception
        pytest.fail(f"mistere {' '.join(arguments)}: {error}")


CALLS = [call for _, script in SCRIPTS for call in mistere_commands(script)]


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_command_exists_with_its_options(call: list[str]) -> None:
    parse(call)


def test_commands_are_extracted_from_scripts() -> None:
    assert [call[0] for call in CALLS] == ["submit", "submit", "gate-table", "report", "approve"]
    with pytest.raises(pytest.fail.Exception, match="--no-such-option"):
        parse(["gate-table", "--no-such-option"])


def test_gitlab_pipeline_commands_exist() -> None:
    content = yaml.safe_load(documented_pipeline())
    scripts = [line for job in content.values() if isinstance(job, dict) for line in job.get("script", [])]
    calls = [call for line in scripts for call in mistere_commands(line)]
    assert calls
    for call in calls:
        parse(call)


@pytest.mark.parametrize("script", [script for _, script in SCRIPTS])
def test_scripts_are_valid_bash(script: str) -> None:
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_table_is_posted_to_each_pull_request_of_the_commit(tmp_path: Path) -> None:
    """Run the comment's script with a `gh` that records its calls."""
    (script,) = (script for location, script in SCRIPTS if location == "retrain/comment")
    gh = tmp_path / "gh"
    gh.write_text(
        "#!/bin/bash\n"
        'if [ "$2" = repos/o/r/commits/abc/pulls ]; then printf "7\\n12\\n"; exit; fi\n'
        f'echo "$@" >> {tmp_path}/calls; cat >> {tmp_path}/calls; echo >> {tmp_path}/calls\n'
    )
    gh.chmod(0o755)
    table = "### ✅ `$(touch /tmp/no)` | a | b |\n| -n | %s |"
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "GITHUB_REPOSITORY": "o/r", "GITHUB_SHA": "abc", "TABLE": table}
    subprocess.run(["bash", "-eo", "pipefail", "-c", script], env=environment, check=True)
    calls = (tmp_path / "calls").read_text()
    for number in (7, 12):
        assert f"api --silent repos/o/r/issues/{number}/comments -F body=@-\n{table}\n" in calls


def test_table_is_written_to_job_summary_and_output(tmp_path: Path) -> None:
    """Run the step's script with a `mistere` that prints a table, and with one that fails."""
    (script,) = (script for location, script in SCRIPTS if location == "retrain/retrain" and "gate-table" in script)
    command = tmp_path / ".venv" / "bin" / "mistere"
    command.parent.mkdir(parents=True)
    (tmp_path / "submit").write_text("version  v1, uploaded\nrun      20261125-1 in namespace mistere\n")
    for body, expected in (
        ('echo "$1 $2"; echo "c"', "gate-table 20261125-1\nc\n"),
        ("exit 1", "Run 20261125-1 has recorded nothing yet.\n"),
        (None, "No run was started.\n"),
    ):
        if body is None:
            (tmp_path / "submit").unlink()
        command.write_text(f"#!/bin/bash\n{body}\n")
        command.chmod(0o755)
        output_files = {name: str(tmp_path / name) for name in ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT")}
        for path in output_files.values():
            Path(path).write_text("")
        environment = {"PATH": "/usr/bin:/bin", "RUNNER_TEMP": str(tmp_path), **output_files}
        subprocess.run(["bash", "-eo", "pipefail", "-c", script], cwd=tmp_path, env=environment, check=True)
        assert (tmp_path / "GITHUB_STEP_SUMMARY").read_text() == expected
        output = (tmp_path / "GITHUB_OUTPUT").read_text()
        if body is None:
            assert output == "", "nothing to comment on"
            continue
        assert re.fullmatch(rf"table<<(end-[0-9a-f]{{32}})\n{re.escape(expected)}\1\n", output), output


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ({"outcome": {"candidate": "mistere/5"}}, "candidate=mistere/5\n"),
        ({"outcome": {"candidate": ""}}, ""),
        ({"outcome": {}}, ""),
        ({"outcome": {"candidate": "mistere/5\nother=injected value"}}, "candidate=mistere/5\n"),
        (None, ""),
    ],
)
def test_the_model_that_waits_is_an_output(tmp_path: Path, report: dict[str, Any] | None, expected: str) -> None:
    """Run the step's script with a `mistere` that prints a report."""
    (script,) = (script for location, script in SCRIPTS if location == "retrain/retrain" and "mistere report" in script)
    command = tmp_path / ".venv" / "bin" / "mistere"
    command.parent.mkdir(parents=True)
    (tmp_path / "answer").write_text(json.dumps(report))
    command.write_text(f"#!/bin/bash\n{'exit 1' if report is None else 'cat answer'}\n")
    command.chmod(0o755)
    (tmp_path / "submit").write_text("run      20261125-1 in namespace mistere\n")
    (tmp_path / "output").write_text("")
    environment = {**_with_jq(tmp_path), "RUNNER_TEMP": str(tmp_path), "GITHUB_OUTPUT": str(tmp_path / "output")}
    subprocess.run(["bash", "-eo", "pipefail", "-c", script], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "output").read_text() == expected


@pytest.mark.parametrize(
    ("approvals", "expected"),
    [
        (
            [
                {
                    "state": "approved",
                    "user": {"login": "mallory"},
                    "comment": "",
                    "environments": [{"name": "retraining"}],
                },
                {
                    "state": "approved",
                    "user": {"login": "ann"},
                    "comment": "Better.",
                    "environments": [{"name": "release"}],
                },
            ],
            "ann on GitHub: approve mistere/5 --reason Better.\n",
        ),
        (
            [{"state": "approved", "user": {"login": "ann"}, "comment": "", "environments": [{"name": "release"}]}],
            "ann on GitHub: approve mistere/5 --reason Approved in run 7 of o/r.\n",
        ),
        ([{"state": "rejected", "user": {"login": "ann"}, "comment": "", "environments": [{"name": "release"}]}], ""),
        ([], ""),
    ],
)
def test_only_what_a_reviewer_approved_is_released(tmp_path: Path, approvals: list[Any], expected: str) -> None:
    """Run the step's script with a `gh` that knows the approvals, and a `mistere` that records its call."""
    (script,) = (
        script for location, script in SCRIPTS if location == "retrain/approve" and "mistere approve" in script
    )
    command = tmp_path / ".venv" / "bin" / "mistere"
    command.parent.mkdir(parents=True)
    command.write_text(f'#!/bin/bash\necho "$MISTERE_ACTOR: $@" >> {tmp_path}/calls\n')
    (tmp_path / "answer").write_text(json.dumps(approvals))
    (tmp_path / "gh").write_text(
        f'#!/bin/bash\n[ "$2" = repos/o/r/actions/runs/7/approvals ] && cat {tmp_path}/answer\n'
    )
    for path in (command, tmp_path / "gh"):
        path.chmod(0o755)
    (tmp_path / "calls").write_text("")
    environment = {**_with_jq(tmp_path), "GITHUB_REPOSITORY": "o/r", "GITHUB_RUN_ID": "7", "CANDIDATE": "mistere/5"}
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", script], cwd=tmp_path, env=environment, check=False, capture_output=True
    )
    assert (tmp_path / "calls").read_text() == expected
    assert done.returncode == (0 if expected else 1)


def _with_jq(folder: Path) -> dict[str, str]:
    """A PATH with the commands of a hosted runner."""
    found = shutil.which("jq")
    if found is None:
        pytest.skip("jq is not installed")
    return {"PATH": f"{folder}:{Path(found).parent}:/usr/bin:/bin"}


def test_images_are_built_from_the_bake_file_and_each_is_signed_attested_and_verified(tmp_path: Path) -> None:
    """Run the signing step with a `docker` and a `cosign` that record their calls."""
    build, sign = (script for location, script in SCRIPTS if location == "images/sign")
    bake = (ROOT / "docker" / "docker-bake.hcl").read_text()
    exported = re.search(r"export (.+)", build)
    assert exported and set(exported[1].split()) == set(re.findall(r'variable "(\w+)"', bake)) - {"BASE"}
    assert load("images")[True] == {"push": {"tags": ["v*"]}}, "the policy's identity names tags"
    roles = ("pipeline", "train", "predictor")
    digests = {role: f"sha256:{str(number) * 64}" for number, role in enumerate(roles)}
    (tmp_path / "images.json").write_text(
        json.dumps({role: {"containerimage.digest": digest} for role, digest in digests.items()})
    )
    for name, line in (("docker", 'printf "{}"'), ("cosign", f'echo "$@" >> {tmp_path}/calls')):
        (tmp_path / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "python").symlink_to(sys.executable)
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "RUNNER_TEMP": str(tmp_path),
        "REGISTRY": "ghcr.io/o/r",
        "TORCH": "cpu",
        "GITHUB_SERVER_URL": "https://github.com",
        "GITHUB_WORKFLOW_REF": "o/r/.github/workflows/images.yaml@refs/tags/v1",
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
    }
    subprocess.run(["bash", "-e", "-c", sign], cwd=tmp_path, env=environment, check=True)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == 4 * len(roles)
    for number, role in enumerate(roles):
        assert all(
            call.endswith(f" ghcr.io/o/r/{role}-python@{digests[role]}") for call in calls[4 * number : 4 * number + 4]
        )
    assert [call.split()[0] for call in calls[:4]] == ["sign", "attest", "verify", "verify-attestation"]
    identity = "--certificate-identity https://github.com/o/r/.github/workflows/images.yaml@refs/tags/v1 "
    assert identity in calls[2] and identity in calls[3] and "--type cyclonedx" in calls[1]
    summary = (tmp_path / "summary").read_text()
    assert all(f"--digest {role}={digest}" in summary for role, digest in digests.items())
    (tmp_path / "images.json").write_text("{}")
    failed = subprocess.run(["bash", "-e", "-c", sign], cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert failed.returncode, "an image without a digest fails the job"
