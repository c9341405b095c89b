"""The commands of the guide for other clients, against the stand-in for Kubeflow Pipelines."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from mistere.common.paths import PROJECT_ROOT
from tests.stand_ins.kfp_api import KfpApi, served

GUIDE = PROJECT_ROOT / "docs" / "guides" / "any-client.md"
ADDRESS = "https://kubeflow.example.org/pipeline"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.long
@pytest.mark.parametrize("several_users", [False, True])
def test_the_commands_of_the_guide_start_runs(
    several_users: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kfp.cli.cli import cli
    from kfp.client import Client

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "kfp" / "context.json"))
    shutil.copy(PROJECT_ROOT / "pipelines" / "retraining.yaml", "gpu.yaml")
    lines = [line for block in _blocks("bash") for line in block.replace("\\\n", " ").splitlines()]
    commands = [shlex.split(line) for line in lines if line.startswith("kfp ")]
    (once,) = [shlex.split(line)[2] for line in lines if line.startswith("python -c")]
    with served(KfpApi(multi_user=several_users)) as api:
        if several_users:
            exec(once.replace(ADDRESS, api.url), {})
        for command in commands:
            words = [word.replace(ADDRESS, api.url) for word in command[1:]]
            result = CliRunner().invoke(cli, words, obj={}, catch_exceptions=False)
            assert result.exit_code == 0, result.output
        if several_users:
            (script,) = _blocks("python")
            exec(script.replace(ADDRESS, api.url), {})
        namespaces = {api.experiments[run.experiment_id].namespace for run in api.runs.values()}
        parameters = [run.runtime_config["parameters"] for run in api.runs.values()]
    assert namespaces == {"mistere" if several_users else ""}
    assert [sorted(passed) for passed in parameters] == [[], ["mixture", "speech"], ["mixture", "run"]][
        : 2 + several_users
    ]
    assert parameters[1]["speech"] == {"epochs": 4, "lora": {"rank": 16}}
