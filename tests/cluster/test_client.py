"""The client of Kubeflow Pipelines: every error is one sentence that says how to fix it."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from mistere.common.errors import ExitCode, MistereError, UsageError
from pipelines.kubeflow.connection.client import Pipelines
from pipelines.kubeflow.connection.failures import AlreadyExistsError, NotFoundError, PipelinesError, UnavailableError
from pipelines.kubeflow.connection.page import chosen_ui
from pipelines.kubeflow.connection.token import Token
from tests.cluster.mounted_pod import api, json_web_token, no_token
from tests.local.servers import free_port
from tests.stand_ins.kfp_api import KfpApi, Trouble, kubernetes_is_away

__all__ = ["api", "no_token"]
HTML = "<html><body>Log in to your account</body></html>"


def client(host: str, patience: float = 20.0) -> Pipelines:
    return Pipelines(host, "mistere", backoff=0.001, timeout=(5.0, patience))


def sentence(error: pytest.ExceptionInfo[MistereError]) -> str:
    text = str(error.value)
    assert "\n" not in text and len(text) < 400 and text.endswith(".") and "Traceback" not in text
    assert error.value.exit_code in {ExitCode.ERROR, ExitCode.USAGE}
    return text


@pytest.mark.parametrize(
    ("trouble", "kind", "message_part"),
    [
        (
            Trouble("GET", "", 401),
            PipelinesError,
            "requires a token (401): put one into KFP_TOKEN",
        ),
        (Trouble("GET", "", 403), PipelinesError, "in namespace 'mistere' (403): set cluster.namespace"),
        (Trouble("GET", "", 404), NotFoundError, "so it was deleted there"),
        (Trouble("GET", "", 409), AlreadyExistsError, "(409): rename or delete it"),
        (Trouble("GET", "", 400), PipelinesError, "refused run abc (400: trouble on demand)"),
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
def test_an_invalid_response_is_reported(
    api: KfpApi, trouble: Trouble, kind: type[MistereError], message_part: str
) -> None:
    api.troubles = [trouble]
    with pytest.raises(kind) as error:
        client(api.url, patience=0.3 if trouble.seconds else 20.0).run("abc")
    assert message_part in sentence(error)
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


PACKAGE = "pipelineInfo: {name: p}\nroot: {}\n"


def test_a_denied_upload_names_the_missing_right(api: KfpApi) -> None:
    pipelines = client(api.url)
    pipeline = pipelines.pipeline("p", "d")
    api.no_versions = {"mistere"}
    with pytest.raises(PipelinesError) as error:
        pipelines.upload(pipeline, "v1", "d", PACKAGE)
    assert "does not allow version 'v1' in namespace 'mistere' (403): set cluster.namespace" in sentence(error)
    assert not api.versions and [path.rsplit("/", 1)[-1] for method, path in api.requests if method == "POST"] == [
        "pipelines",
        "upload_version",
        "versions",
    ]


def test_a_refused_package_is_distinguished_from_a_missing_right(api: KfpApi) -> None:
    pipelines = client(api.url)
    pipeline = pipelines.pipeline("p", "d")
    with pytest.raises(PipelinesError) as error:
        pipelines.upload(pipeline, "v1", "d", "no: pipeline\n")
    assert "refused the package of version 'v1' (400), although the account may create it" in sentence(error)
    with pytest.raises(NotFoundError) as error:
        pipelines.upload("gone", "v1", "d", PACKAGE)
    assert "so it was deleted there" in sentence(error)


VALID = {"exp": 4e9, "aud": ["pipelines.kubeflow.org"]}


def test_a_valid_token_survives_an_outage_of_the_kubernetes_api(api: KfpApi, monkeypatch: pytest.MonkeyPatch) -> None:
    token = json_web_token(**VALID)
    monkeypatch.setenv("KFP_TOKEN", token)
    api.token = token
    api.troubles = [kubernetes_is_away(3), kubernetes_is_away(3, method="POST")]
    assert client(api.url).pipeline("p", "d") and not any(trouble.times for trouble in api.troubles)


@pytest.mark.parametrize(
    ("claims", "message_part"),
    [
        (VALID, "is valid until 2096-10-02 07:06 UTC: the Kubernetes API, which reviews it, may be away"),
        ({**VALID, "exp": 1.6e9}, "it expired on 2020-09-13 12:26 UTC; get a new one"),
        (
            {**VALID, "aud": ["https://kubernetes.default.svc.cluster.local"]},
            "it is for the audience 'https://kubernetes.default.svc.cluster.local' and not for 'pipelines.kubeflow.org'; create one "
            "with `kubectl create token mistere-submitter --namespace mistere --audience pipelines.kubeflow.org`",
        ),
        ({**VALID, "aud": "mistere"}, "it is for the audience 'mistere'"),
        ({"aud": "pipelines.kubeflow.org"}, "it may have expired; get a new one"),
        ({**VALID, "exp": 1e300}, "is valid until an unknown date"),
        ({"exp": True, "aud": {}}, "it may have expired"),
    ],
)
def test_the_claims_of_a_refused_token_explain_the_refusal(
    api: KfpApi, monkeypatch: pytest.MonkeyPatch, claims: dict[str, Any], message_part: str
) -> None:
    token = json_web_token(**claims)
    monkeypatch.setenv("KFP_TOKEN", token)
    api.token = "another"
    with pytest.raises(PipelinesError) as error:
        Pipelines(api.url, "mistere", backoff=0.001, outage=0.5).pipeline("p", "d")
    assert message_part in sentence(error) and error.value.status == 401 and token not in str(error.value)
    assert isinstance(error.value, UnavailableError) == ("valid until" in message_part)
    assert (len(api.requests) > 1) == ("valid until" in message_part)


@pytest.mark.parametrize("token", ["opaque", "a.b.c", "a.!!.c", "a.W10.c", "..", "a.bnVsbA.c"])
def test_an_opaque_token_is_not_retried(api: KfpApi, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("KFP_TOKEN", token)
    api.token = "another"
    with pytest.raises(PipelinesError, match="it may have expired"):
        client(api.url).pipeline("p", "d")
    assert len(api.requests) == 1


def test_a_token_does_not_show_its_value() -> None:
    assert "secret" not in repr(Token.of("secret", "KFP_TOKEN"))


def test_the_page_of_a_run_has_the_address_of_the_user_interface(api: KfpApi, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = client(api.url).pages
    assert pages.address("abc") == "http://localhost:8080/#/runs/details/abc"
    assert "port-forward service/ml-pipeline-ui 8080:80" in pages.hint and api.requests == [("GET", "/")]
    elsewhere = Pipelines(api.url, "mistere", kubeflow_namespace="ml-platform").pages
    assert elsewhere.hint.startswith("run `kubectl --namespace ml-platform port-forward service/ml-pipeline-ui")
    api.serves_pages = True
    pages = client(api.url).pages
    assert (pages.address("abc"), pages.hint) == (f"{api.url}/#/runs/details/abc", "")
    monkeypatch.setenv("KFP_UI_ENDPOINT", "https://kubeflow.example.org/pipeline/")
    assert chosen_ui("http://setting") == "https://kubeflow.example.org/pipeline"
    pages = Pipelines(api.url, "mistere", ui=chosen_ui("")).pages
    assert (pages.address("abc"), pages.hint) == ("https://kubeflow.example.org/pipeline/#/runs/details/abc", "")


def test_a_refused_connection_is_reported() -> None:
    with pytest.raises(UnavailableError) as error:
        client(f"http://127.0.0.1:{free_port()}").run("abc")
    assert "check --host, KFP_ENDPOINT or cluster.host" in sentence(error)
    with pytest.raises(UnavailableError) as error:
        client("http://kfp.invalid").run("abc")
    assert "cannot be reached" in sentence(error)


def test_a_silent_server_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(UnavailableError) as error:
            client(f"http://127.0.0.1:{silent.getsockname()[1]}", patience=0.3).run("abc")
        assert "did not answer in time" in sentence(error)


def test_a_wrong_scheme_is_reported(api: KfpApi) -> None:
    with pytest.raises(UnavailableError) as error:
        client(api.url.replace("http", "https")).run("abc")
    assert "SSL_CERT_FILE" in sentence(error)


def test_the_token_is_sent_and_never_shown(api: KfpApi, monkeypatch: pytest.MonkeyPatch) -> None:
    api.token = "right"
    monkeypatch.setenv("KFP_TOKEN", "wrong-secret")
    with pytest.raises(PipelinesError) as error:
        client(api.url).experiment("e")
    assert "401" in sentence(error) and "wrong-secret" not in sentence(error)
    monkeypatch.setenv("KFP_TOKEN", "right")
    assert client(api.url).experiment("e")


def test_a_pod_uses_its_mounted_token(api: KfpApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    api.token = "projected"
    (tmp_path / "token").write_text("projected")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    assert client(api.url).experiment("e")


@pytest.mark.parametrize(("clock", "message_part"), [(-1200.0, "20 minutes ahead of"), (7200.0, "120 minutes behind")])
@pytest.mark.parametrize("status", [0, 401])
def test_clock_skew_is_reported(api: KfpApi, clock: float, message_part: str, status: int) -> None:
    api.clock = clock
    if status:
        api.troubles = [Trouble("GET", "", status)]
    with pytest.raises(PipelinesError) as error:
        client(api.url).experiment("e")
    assert message_part in sentence(error) and "timedatectl set-ntp true" in sentence(error)


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
    assert "fix or delete" in sentence(error)
