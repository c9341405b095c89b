"""The store's variables in a pod: they reach our process, not the launcher of Kubeflow Pipelines beside it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from components.resolve_inputs.run import STAGE
from mistere.artifacts.s3.store import S3Store
from mistere.engine.execution import execute
from mistere.kubernetes.secret_keys import STORAGE_VARIABLES, use_storage_variables
from tests.local.servers import free_port

SECRET = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables with which Kubeflow Pipelines' launcher stores its own artifacts; restored at the end."""
    own = {key: "the-launcher's" for key in (*STORAGE_VARIABLES, "AWS_DEFAULT_REGION") if key.startswith("AWS_")}
    for name, value in {**own, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}.items():
        monkeypatch.setenv(name, value)


def give(monkeypatch: pytest.MonkeyPatch, secret: dict[str, str]) -> None:
    """Set the variables that Kubernetes sets from the secret."""
    for key, value in secret.items():
        monkeypatch.setenv(STORAGE_VARIABLES[key], value)


def test_no_variable_of_a_pod_has_the_name_of_one_that_the_launcher_reads() -> None:
    # KFP 2.17: with a root of s3:// and `fromEnv`, launcher-v2 takes AWS_… from the step's own environment.
    assert not [variable for variable in STORAGE_VARIABLES.values() if variable.startswith("AWS_")]
    assert len(set(STORAGE_VARIABLES.values())) == len(STORAGE_VARIABLES)


def test_the_secret_replaces_the_launchers_credentials_in_the_process(
    launcher: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch, SECRET)
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    use_storage_variables()
    assert {key: os.environ[key] for key in SECRET} == SECRET
    assert os.environ["AWS_DEFAULT_REGION"] == "us-east-1", "boto3 reads the region from there"
    assert "AWS_SESSION_TOKEN" not in os.environ, "it belongs to the launcher's access key"
    assert os.environ["AWS_ENDPOINT_URL"] == endpoint, "the secret has none"


def test_without_the_secret_the_environment_stays(launcher: None) -> None:
    before = dict(os.environ)
    use_storage_variables()
    assert dict(os.environ) == before


def test_a_stage_opens_the_store_of_its_secret(
    s3_store: S3Store, s3_endpoint: str, launcher: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The launcher's variables point to an address where nothing answers; the record shows that the stage reached the store."""
    monkeypatch.setenv("MISTERE_CACHE", str(tmp_path))
    give(monkeypatch, {**SECRET, "AWS_ENDPOINT_URL": s3_endpoint})
    context = {"run_id": "run", "store": s3_store.uri, "tracking_uri": "", "data_digest": "d.dir"}
    random = {"speech": {"source": "random:whisper"}, "text": {"source": "random:bidirectional_text"}}
    assert execute(STAGE, context, {"given": random})["champion_digest"] == "none"
    assert list(S3Store(s3_store.uri).keys("runs/run")), "the record is in the secret's store"
