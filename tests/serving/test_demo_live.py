"""The microphone of the demo page: its WebSocket to the predictor, who may open it, and a conversation in a browser."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from mistere.data.kinds.audio import encoded
from mistere.predictor.stream.turns import RATE
from pipelines.cli.demo.live import SCRIPT_TAG, LiveAudio, live_audio
from pipelines.cli.demo.origin import AllowedHosts
from pipelines.cli.demo.rendering import show_live
from pipelines.cli.demo.server import Application, closed_page
from tests.local.servers import free_port
from tests.serving.browser import CHROMIUM, browser
from tests.serving.conftest import LABELS, Server
from tests.serving.test_demo import needs_gradio
from tests.serving.test_demo_browser import running_demo
from tests.serving.test_stream import send_audio, silence, voice


async def no_page(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def bare_page(scope: Any, receive: Any, send: Any) -> None:
    """The microphone's section alone."""
    page = f"<!doctype html><body>{show_live('this machine', True)}{SCRIPT_TAG}"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/html")]})
    await send({"type": "http.response.body", "body": page.encode()})


@contextmanager
def page_server(live: LiveAudio | None, page: Application = no_page) -> Iterator[int]:
    """The page's server without Gradio; yields its port."""
    port = free_port()
    application = closed_page(page, AllowedHosts("127.0.0.1"), live)
    server = uvicorn.Server(
        uvicorn.Config(application, port=port, log_level="error", lifespan="off", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield port
    server.should_exit = True
    thread.join(20)


def joined(port: int, path: str = "/live/stream", origin: str | None = None) -> ClientConnection:
    named = Origin(origin or f"http://127.0.0.1:{port}")
    return connect(f"ws://127.0.0.1:{port}{path}", origin=named, proxy=None)


def closed(socket: ClientConnection) -> tuple[int, str]:
    with pytest.raises(ConnectionClosed) as ended:
        while True:
            socket.recv(60)
    assert ended.value.rcvd is not None
    return ended.value.rcvd.code, ended.value.rcvd.reason


def stream_of(server: Server) -> LiveAudio:
    live = live_audio(server.url, server.client.metadata())
    assert live is not None
    return live


def test_sound_reaches_the_predictor_and_answers_the_page(server: Server) -> None:
    live = stream_of(server)
    assert live == LiveAudio(f"ws://127.0.0.1:{server.http_port}/v1/stream", has_interim=True)
    with page_server(live) as port:
        with joined(port) as socket:
            socket.send(json.dumps({"type": "start"}))
            assert json.loads(socket.recv(60))["type"] == "ready"
            send_audio(socket, np.concatenate([voice(1.0), silence(1.0)]))
            assert json.loads(socket.recv(60))["label"] in LABELS
            socket.send(json.dumps({"type": "end"}))
            assert closed(socket) == (1000, "")
        with joined(port) as socket:
            socket.send("no JSON")
            assert closed(socket) == (1003, "A text message must be a JSON object.")


def test_a_predictor_that_is_gone_is_a_sentence() -> None:
    with page_server(LiveAudio(f"ws://127.0.0.1:{free_port()}/v1/stream", True)) as port, joined(port) as socket:
        assert closed(socket) == (1013, "The predictor does not answer: try again in a few seconds.")


def test_only_the_page_opens_the_microphone_and_only_where_there_is_one() -> None:
    live = LiveAudio(f"ws://127.0.0.1:{free_port()}/v1/stream", True)
    with page_server(live) as port:
        for path, origin in (("/live/stream", "https://evil.example.org"), ("/live/other", None)):
            with pytest.raises(InvalidStatus, match="403"):
                joined(port, path, origin)
        for path in ("/live/page.js", "/live/worklet.js"):
            answer = httpx.get(f"http://127.0.0.1:{port}{path}")
            assert answer.headers["content-type"].startswith("text/javascript") and "use strict" in answer.text
            assert "connect-src 'self'" in answer.headers["content-security-policy"]
        assert httpx.get(f"http://127.0.0.1:{port}/live/page.js", headers={"Host": "evil.example"}).status_code == 421
        assert httpx.get(f"http://127.0.0.1:{port}/live/live.html").status_code == 404
    with page_server(None) as port:
        with pytest.raises(InvalidStatus, match="403"):
            joined(port)
        assert httpx.get(f"http://127.0.0.1:{port}/live/page.js").status_code == 404


def test_a_model_without_audio_or_streams_gets_no_button() -> None:
    audio = [{"name": "text"}, {"name": "audio"}]
    speech = {"encoder_digest.speech": "s", "option.max_streams": "8"}
    assert live_audio("https://host/part/", {"inputs": audio, "properties": speech}) == LiveAudio(
        "wss://host/part/v1/stream", True
    )
    transcribes = {"inputs": audio, "outputs": [{"name": "text_source"}], "properties": {"option.max_streams": "8"}}
    assert live_audio("http://host", transcribes) == LiveAudio("ws://host/v1/stream", False)
    for metadata in (
        {"inputs": audio, "properties": speech | {"option.max_streams": "0"}},
        {"inputs": audio, "properties": {"option.max_streams": "8"}},
        {"inputs": audio[:1], "properties": speech},
        {},
    ):
        assert live_audio("http://host", metadata) is None


@pytest.mark.long
@needs_gradio
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
def test_a_microphone_in_a_browser(server: Server, tmp_path: Path) -> None:
    heard = np.concatenate([silence(0.5), voice(1.7), silence(1.0), voice(1.2, 190), silence(1.2)])
    (tmp_path / "call.wav").write_bytes(encoded(heard, RATE, "PCM_16"))
    with running_demo(tmp_path, "--url", server.url) as url, browser(tmp_path, tmp_path / "call.wav") as tab:
        tab.open(url, 1280, 900)
        tab.wait("!!document.querySelector('#live-button')")
        tab.click("#live-button")
        tab.wait("document.querySelector('#live-status').innerText == 'Listening'")
        assert tab.value("document.querySelector('#live-button').getAttribute('aria-pressed')") == "true"
        tab.wait("!!document.querySelector('#live-turns .m-interim b')")
        tab.wait("document.querySelectorAll('#live-turns [data-turn]').length >= 2")
        labels = tab.value("[...document.querySelectorAll('#live-turns [data-turn] b')].map(label => label.innerText)")
        assert set(labels) <= set(LABELS)
        shares = tab.value(
            "[...document.querySelectorAll('#live-turns [data-turn] b + span')].map(share => share.innerText)"
        )
        assert all(share.endswith(" %") for share in shares)
        tab.picture(tmp_path / "live.png")
        assert (tmp_path / "live.png").stat().st_size > 20_000
        tab.click("#live-button")
        tab.wait("document.querySelector('#live-button').getAttribute('aria-pressed') == 'false'")
        assert tab.value("document.querySelector('#live-trouble').innerText") == ""
        assert not tab.value("!!document.querySelector('#live-turns .m-interim')")
        tab.open(url, 400, 800)
        tab.wait("!!document.querySelector('#live-button')")
        assert tab.value("document.documentElement.scrollWidth") <= 400
        hosts = {address.split("/")[2] for address in tab.requested if address.startswith(("http", "ws"))}
        assert hosts == {url.removeprefix("http://")} and tab.complaints == []


STATE = "[...document.querySelectorAll('#live-button, #live-status, #live-trouble')].map(one => one.textContent)"
OFF, ON = "Start the microphone", "Stop the microphone"
DEVICES = """
window.asked = [];
window.devices = navigator.mediaDevices;
window.open_microphone = devices.getUserMedia.bind(devices);
window.put = (value) => Object.defineProperty(navigator, 'mediaDevices', {value, configurable: true});
window.ask = () => new Promise((allow, refuse) => asked.push({allow, refuse}));
"""
"""Lets the test answer the question for the microphone."""


@pytest.mark.long
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
def test_a_microphone_that_is_missing_refused_or_allowed_too_late(server: Server, tmp_path: Path) -> None:
    with page_server(stream_of(server), bare_page) as port, browser(tmp_path) as tab:
        tab.open(f"http://127.0.0.1:{port}/", 800, 600)
        tab.wait("!!document.querySelector('#live-button') && document.readyState == 'complete'")
        tab.value(DEVICES)
        tab.value("put(undefined)")  # as on plain http
        tab.click("#live-button")
        missing = [OFF, "", "The browser allows the microphone only on localhost and https."]
        tab.wait(f"JSON.stringify({STATE}) == {json.dumps(json.dumps(missing, separators=(',', ':')))}")
        tab.value("put({getUserMedia: ask})")
        tab.click("#live-button")
        assert tab.value(STATE) == [ON, "Waiting for the microphone", ""]
        tab.value("asked[0].refuse(new DOMException('', 'NotAllowedError'))")
        assert tab.value(STATE) == [OFF, "", "The browser gives no access to a microphone (NotAllowedError)."]

        tab.click("#live-button")
        tab.click("#live-button")  # stopped while the question is open
        assert tab.value(STATE) == [OFF, "", ""]
        tab.value("open_microphone({audio: true}).then(sound => { window.late = sound; asked[1].allow(sound); })")
        tab.wait("late.getTracks().every(track => track.readyState == 'ended')")
        assert tab.value(STATE) == [OFF, "", ""]

        tab.click("#live-button")
        tab.click("#live-button")
        tab.click("#live-button")  # another session
        tab.value("open_microphone({audio: true}).then(sound => { window.own = sound; asked[3].allow(sound); })")
        tab.wait(f"{STATE}[1] == 'Listening'")
        tab.value("asked[2].refuse(new DOMException('', 'NotAllowedError'))")
        assert tab.value(STATE) == [ON, "Listening", ""]
        tab.click("#live-button")
        tab.wait(f"{STATE}[0] == {json.dumps(OFF)}")
        assert tab.value(STATE) == [OFF, "", ""]
        assert tab.value("own.getTracks().every(track => track.readyState == 'ended')") and tab.complaints == []


@pytest.mark.long
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
def test_a_predictor_that_is_gone_turns_the_microphone_off(tmp_path: Path) -> None:
    live = LiveAudio(f"ws://127.0.0.1:{free_port()}/v1/stream", True)
    with page_server(live, bare_page) as port, browser(tmp_path) as tab:
        tab.open(f"http://127.0.0.1:{port}/", 800, 600)
        tab.wait("!!document.querySelector('#live-button') && document.readyState == 'complete'")
        tab.value(DEVICES)
        tab.value("put({getUserMedia: ask})")
        tab.click("#live-button")
        tab.value("open_microphone({audio: true}).then(sound => { window.own = sound; asked[0].allow(sound); })")
        tab.wait(f"{STATE}[2] == 'The predictor does not answer: try again in a few seconds.'")
        assert tab.value(STATE)[0] == OFF
        assert tab.value("own.getTracks().every(track => track.readyState == 'ended')")
