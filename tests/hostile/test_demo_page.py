"""The page of ``mistere demo`` over HTTP, with Gradio: no event reads, deletes or fetches anything but its own uploads."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from mistere.data.kinds.audio import encoded
from pipelines.cli.demo.origin import AllowedHosts
from tests.local.servers import free_port
from tests.serving.test_demo import answered, needs_gradio

pytestmark = [needs_gradio, pytest.mark.server]
SECRET = "the secret of this machine"
SESSION = "hostile"


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("private") / "secret.wav"
    file.write_text(SECRET)
    return file


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of the real page, which takes images, with a model that answers at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        from pipelines.cli.demo.page import build_page
        from pipelines.cli.demo.server import page_application

        application = page_application(build_page(answered, "a test", images=["face"]), AllowedHosts("127.0.0.1"))
        port = free_port()
        server = uvicorn.Server(uvicorn.Config(application, port=port, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield client
        server.should_exit = True
        thread.join(20)


def join(page: httpx.Client, data: list[Any], **fields: Any) -> httpx.Response:
    event = {"fn_index": 0, "session_hash": SESSION, "data": data, **fields}
    return page.post("/gradio_api/queue/join", json=event)


def output(page: httpx.Client, data: list[Any]) -> list[Any]:
    """What the page shows after an event that it accepts."""
    answer = join(page, data)
    assert answer.status_code == 200, answer.text
    with page.stream("GET", "/gradio_api/queue/data", params={"session_hash": SESSION}) as messages:
        for line in messages.iter_lines():
            message = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
            if message.get("msg") == "process_completed":
                assert message["success"], message
                shown: list[Any] = message["output"]["data"]
                return shown
    raise AssertionError("the page did not answer")


def upload(page: httpx.Client, name: str, content: bytes) -> str:
    answer = page.post("/gradio_api/upload", files={"files": (name, content, "application/octet-stream")})
    assert answer.status_code == 200, answer.text
    return str(answer.json()[0])


def file_data(path: str, **fields: Any) -> dict[str, Any]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **fields}


def test_uploads_are_read_and_their_files_deleted(page: httpx.Client) -> None:
    import numpy as np

    path = upload(page, "turn.wav", encoded(np.zeros(8000, np.float32), 16000, "PCM_16"))
    shown = output(page, [None, "Hello <b>", file_data(path), False, None])
    assert "heard by speech and text" in shown[4] and "Hello &lt;b&gt;" in shown[4] and not Path(path).exists()
    assert "too long ago" in join(page, [None, None, file_data(path), False, None]).json()["detail"]


@pytest.mark.parametrize("field", range(5))
def test_no_field_takes_a_file_that_was_not_uploaded(page: httpx.Client, secret: Path, field: int) -> None:
    """Each field, the state of the conversation too, with a path, a link out of the uploads, and URLs."""
    uploads = Path(upload(page, "a.wav", b"x")).parents[1]
    for path in (
        str(secret),
        "/etc/passwd",
        "/proc/self/environ",
        f"{uploads}/../{secret.parent.name}/{secret.name}",
        str(secret.relative_to("/")),
        "http://127.0.0.1:9/internal.wav",
        "https://example.org/a.wav",
        "file:///etc/passwd",
        "a\0b",
        "x" * 5000,
        str(uploads),
        "",
    ):
        for reference in (
            file_data(path),
            file_data(path, is_stream=True),
            file_data(path, url=path),
            [file_data(path)],
            {"value": file_data(path)},
        ):
            data: list[Any] = [None, "Hello", None, False, None]
            data[field] = reference
            if field == 0:  # the server has the conversation, and ignores what an event says of it
                assert SECRET not in str(output(page, data)) and not list(uploads.rglob(secret.name))
                break
            answer = join(page, data)
            assert answer.status_code == 400 and len(answer.text) < 200, (path, reference, answer.text)
    assert secret.read_text() == SECRET
    assert not list(uploads.rglob(secret.name)) and not list(uploads.rglob("passwd"))


@pytest.mark.parametrize(
    ("field", "value"), [(1, 5), (1, {"a": 1}), (1, ["b"]), (1, True), (2, "a.wav"), (3, "yes"), (3, 1), (4, "a.png")]
)
def test_values_of_another_kind_are_refused(page: httpx.Client, field: int, value: object) -> None:
    data: list[Any] = [None, "Hello", None, False, None]
    data[field] = value
    assert join(page, data).status_code == 400


def test_events_that_the_page_does_not_send_are_refused(page: httpx.Client) -> None:
    data = [None, "Hello", None, False, None]
    for body in (b"", b"[]", b"{", b"null", b"[" * 100_000, b'{"data": "' + b"x" * 300_000 + b'"}', b"\xff\xfe{"):
        assert page.post("/gradio_api/queue/join", content=body).status_code == 400
    for fields in ({"fn_index": 99}, {"fn_index": True}, {"fn_index": "0"}, {"session_hash": None}, {"data": data[:2]}):
        assert join(page, **{"data": data, **fields}).status_code == 400


def test_gradio_itself_refuses_files_that_were_not_uploaded(page: httpx.Client, secret: Path) -> None:
    """The second lock: Gradio's own check, which a page that was mounted and not launched lacks."""
    from gradio.context import LocalContext
    from gradio.exceptions import InvalidPathError
    from gradio.processing_utils import _check_allowed

    from pipelines.cli.demo.page import build_page
    from pipelines.cli.demo.server import page_application

    blocks = build_page(answered, "a test")
    page_application(blocks, AllowedHosts("127.0.0.1"))
    token = LocalContext.blocks.set(blocks)
    try:
        with pytest.raises(InvalidPathError, match="not uploaded"):
            _check_allowed(str(secret), True)
    finally:
        LocalContext.blocks.reset(token)


def test_files_and_urls_are_not_served(page: httpx.Client, secret: Path) -> None:
    for path in (str(secret), "/etc/passwd", "/proc/self/environ", str(Path.cwd() / "pyproject.toml")):
        for prefix in ("file=", "file=/", "file=.", "file/", "proxy=", "stream/"):
            assert page.get(f"/gradio_api/{prefix}{path}").status_code in (403, 404)
    for url in ("http://127.0.0.1:9/", "https://example.org/", "ftp://example.org/", "file:///etc/passwd"):
        for prefix in ("file=", "proxy="):
            assert page.get(f"/gradio_api/{prefix}{url}").status_code == 404
    name = upload(page, "../../../../up.wav", b"x")
    assert Path(name).name == "up.wav" and len(Path(name).parent.name) == 64
    for link in ("../../secret", "%2e%2e/x", "a" * 500):
        assert SECRET not in page.get("/", params={"deep_link": link}).text
