"""The client of Kubeflow Pipelines: every error is one sentence that says how to fix it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from mistere.common.errors import ExitCode, MistereError, UsageError
from pipelines.kubeflow.client import Pipelines
from pipelines.kubeflow.failures import AlreadyExistsError, NotFoundError, PipelinesError, UnavailableError
from tests.cluster.mounted_pod import api, no_token
from tests.stand_ins.kfp_api import KfpApi, Trouble
from tests.unit.conftest import free_port

__all__ = ["api", "no_token"]
HTML = "<html><body>Log in to your account</body></html>"
DENIED = '{"error_message": "Failed to authorize: PermissionDenied: User is not authorized to create pipelines"}'
"""Error response of an upload: status 400 and plain text (KFP's pipeline_upload_server.go)."""


def client(host: str, patience: float = 20.0) -> Pipelines:
    return Pipelines(host, "mistere", backoff=0.001, timeout=(5.0, patience))


def said(error: pytest.ExceptionInfo[MistereError]) -> str:
    text = str(error.value)
    assert "\n" not in text and len(text) < 400 and text.endswith(".") and "Traceback" not in text
    assert error.value.exit_code in {ExitCode.ERROR, ExitCode.USAGE}
    return text


@pytest.mark.parametrize(
    ("trouble", "kind", "says"),
    [
        (
            Trouble("GET", "", 401),
            PipelinesError,
            "(401): it is missing or has expired; put a new one into KFP_TOKEN",
        ),
        (Trouble("GET", "", 403), PipelinesError, "in namespace 'mistere' (403): set cluster.namespace"),
        (Trouble("GET", "", 404), NotFoundError, "so it was deleted there"),
        (Trouble("GET", "", 409), AlreadyExistsError, "(409): rename or delete it"),
        (Trouble("GET", "", 400), PipelinesError, "refused run abc (400: trouble on demand)"),
        (
            Trouble("GET", "", 400, body=DENIED, content_type="text/plain; charset=utf-8"),
            PipelinesError,
            "does not allow run abc in namespace 'mistere'",
        ),
        (Trouble("GET", "", 500, times=9), UnavailableError, "(500: trouble on demand): try again later"),
        (
            Trouble("GET", "", 503, times=9, body=HTML, content_type="text/html"),
            UnavailableError,
            "(503): try again later",
        ),
        (Trouble("GET", "", 404, body=HTML, content_type="text/html"), PipelinesError, "not as the API"),
        (Trouble("GET", "", 200, body=HTML, content_type="text/html"), PipelinesError, "not as the API"),
        (Trouble("GET", "", 200, body="[]", content_type="text/plain"), PipelinesError, "not as the API"),
        (Trouble("GET", "", 200, times=9, seconds=0.5), UnavailableError, "did not answer in time"),
    ],
)
def test_an_invalid_response_is_reported(api: KfpApi, trouble: Trouble, kind: type[MistereError], says: str) -> None:
    api.troubles = [trouble]
    with pytest.raises(kind) as error:
        client(api.url, patience=0.3 if trouble.seconds else 20.0).run("abc")
    assert says in said(error)
    assert len(api.requests) <= 4


def test_temporary_errors_are_retried(api: KfpApi) -> None:
    api.troubles = [Trouble("GET", "/pipelines", 503, times=2)]
    assert client(api.url).pipeline("p", "d")
    assert [method for method, _ in api.requests] == ["GET", "GET", "GET", "POST"]


def test_create_requests_are_not_retried_blindly(api: KfpApi) -> None:
    api.troubles = [Trouble("POST", "/experiments", 503)]
    client(api.url).experiment("e")
    assert [method for method, _ in api.requests] == ["GET", "POST", "GET", "POST"]
    api.troubles = [Trouble("POST", "/experiments", 503, times=9)]
    with pytest.raises(UnavailableError):
        client(api.url).experiment("another")
    assert sum(method == "POST" for method, _ in api.requests) == 4


def test_a_refused_connection_is_reported() -> None:
    with pytest.raises(UnavailableError) as error:
        client(f"http://127.0.0.1:{free_port()}").run("abc")
    assert "check --host, KFP_ENDPOINT or cluster.host" in said(error)
    with pytest.raises(UnavailableError) as error:
        client("http://kfp.invalid").run("abc")
    assert "cannot be reached" in said(error)


def test_a_silent_server_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(UnavailableError) as error:
            client(f"http://127.0.0.1:{silent.getsockname()[1]}", patience=0.3).run("abc")
        assert "did not answer in time" in said(error)


def test_a_wrong_scheme_is_reported(api: KfpApi) -> None:
    with pytest.raises(UnavailableError) as error:
        client(api.url.replace("http", "https")).run("abc")
    assert "SSL_CERT_FILE" in said(error)


def test_the_token_is_sent_and_never_shown(api: KfpApi, monkeypatch: pytest.MonkeyPatch) -> None:
    api.token = "right"
    monkeypatch.setenv("KFP_TOKEN", "wrong-secret")
    with pytest.raises(PipelinesError) as error:
        client(api.url).experiment("e")
    assert "401" in said(error) and "wrong-secret" not in said(error)
    monkeypatch.setenv("KFP_TOKEN", "right")
    assert client(api.url).experiment("e")


def test_a_pod_uses_its_mounted_token(api: KfpApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    api.token = "projected"
    (tmp_path / "token").write_text("projected")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    assert client(api.url).experiment("e")


@pytest.mark.parametrize(("clock", "says"), [(-1200.0, "20 minutes ahead of"), (7200.0, "120 minutes behind")])
@pytest.mark.parametrize("status", [0, 401])
def test_clock_skew_is_reported(api: KfpApi, clock: float, says: str, status: int) -> None:
    api.clock = clock
    if status:
        api.troubles = [Trouble("GET", "", status)]
    with pytest.raises(PipelinesError) as error:
        client(api.url).experiment("e")
    assert says in said(error) and "timedatectl set-ntp true" in said(error)


def test_small_clock_skew_is_ignored(api: KfpApi) -> None:
    api.clock = 200.0
    assert client(api.url).experiment("e")


def test_a_deleted_version_is_distinguished_from_an_existing_one(api: KfpApi) -> None:
    pipelines = client(api.url)
    with pytest.raises(NotFoundError, match="run the same command again to create it"):
        pipelines.version("gone", "v1")
    assert pipelines.version_by_id(pipelines.pipeline("p", "d"), "gone") is None


def test_unreadable_kfp_settings_are_reported(api: KfpApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from kfp.client import Client

    (tmp_path / "context.json").write_text("{half")
    monkeypatch.setattr(Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    with pytest.raises(UsageError) as error:
        client(api.url)
    assert "fix or delete" in said(error)
