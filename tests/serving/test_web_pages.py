"""Which web pages may use the predictor: none that has its host by DNS rebinding, or by no name of its own."""

from __future__ import annotations

import json
import socket

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from mistere.predictor.connections.web_pages import WebPages
from tests.serving.conftest import Server

BODY = {"instances": [{"utterances": [{"text": "Hello"}]}]}


@pytest.mark.parametrize(
    ("page", "is_answered"),
    [
        ("http://rebound.example:{port}", False),
        ("http://localhost.rebound.example:{port}", False),
        ("http://localhost:{port}", True),
        ("http://127.0.0.1:{port}", True),
        ("http://LOCALHOST:9000", True),  # a port that SSH or kubectl forwards
        ("https://calls.example.org", True),  # a proxy with TLS that sends the client's Host on
    ],
)
def test_a_server_on_loopback_answers_pages_by_its_own_names(server: Server, page: str, is_answered: bool) -> None:
    """A page whose host is the server's, as a rebound name of DNS makes it."""
    origin = page.format(port=server.http_port)
    host = origin.partition("://")[2]
    answer = httpx.post(
        f"{server.url}/v1/models/mistere:predict", json=BODY, headers={"Host": host, "Origin": origin}, timeout=60
    )
    assert answer.status_code == (200 if is_answered else 403), answer.text
    assert is_answered or answer.json()["error"].startswith("This server is for its own machine")
    connection = socket.create_connection(("127.0.0.1", server.http_port))
    url = f"ws://{host}/v1/stream"
    if is_answered:
        with connect(url, sock=connection, proxy=None, origin=Origin(origin)) as stream:
            stream.send(json.dumps({"type": "start"}))
            assert json.loads(stream.recv(60))["type"] == "ready"
    else:
        with (
            pytest.raises(InvalidStatus, match="403"),
            connect(url, sock=connection, proxy=None, origin=Origin(origin)),
        ):
            pass


def test_programs_and_pages_of_other_hosts_reach_rest_as_before(server: Server) -> None:
    """A proxy on the same machine may send any Host; what a page of another host gets, its browser does not show it."""
    url = f"{server.url}/v1/models/mistere:predict"
    given: list[dict[str, str]] = [
        {"Host": "calls.example.org"},
        {"Origin": "http://other.example.org"},
        {"Host": "calls.example.org", "Origin": "http://other.example.org"},
    ]
    for headers in given:
        assert httpx.post(url, json=BODY, headers=headers, timeout=60).status_code == 200


LOCAL, PUBLIC = WebPages("127.0.0.1", ("http://box.example",)), WebPages("0.0.0.0", ("https://calls.example.org",))


@pytest.mark.parametrize(
    ("pages", "origin", "host", "is_allowed"),
    [
        (PUBLIC, None, "x", True),
        (PUBLIC, "http://x", "x:80", True),
        (PUBLIC, "http://X:80", "x", True),
        (PUBLIC, "https://x", "x:443", True),
        (PUBLIC, "https://x", "x", True),
        (PUBLIC, "http://x:8080", "x:8080", True),
        (PUBLIC, "http://[::1]", "[::1]:80", True),
        (PUBLIC, "http://x", "x:8080", False),
        (PUBLIC, "http://x", "y", False),
        (PUBLIC, "http://x", "", False),
        (PUBLIC, "null", "null", False),
        (PUBLIC, "", "", False),
        (PUBLIC, "file://", "", False),
        (PUBLIC, "http://[", "[", False),
        (PUBLIC, "https://calls.example.org", "predictor:8080", True),
        (PUBLIC, "https://calls.example.org:443", "predictor:8080", True),
        (PUBLIC, "http://calls.example.org", "predictor:8080", False),
        (LOCAL, "http://box.example", "box.example:80", True),  # named, behind a proxy without TLS
        (LOCAL, "http://box.example:8080", "box.example:8080", False),
        (WebPages("localhost"), "http://rebound.example", "rebound.example", False),
        (WebPages("::1"), "http://rebound.example", "rebound.example", False),
        (WebPages("::1"), "http://192.168.0.9:8080", "192.168.0.9:8080", True),
    ],
)
def test_a_page_may_open_streams_to_its_own_host(
    pages: WebPages, origin: str | None, host: str, is_allowed: bool
) -> None:
    assert pages.may_stream(origin, host) is is_allowed
