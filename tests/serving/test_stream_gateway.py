"""Streams through the proxy of a Gateway: the version that the route's weights choose answers, and keeps the streams that it has."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection, serve

from mistere.serving import protocol
from tests.serving.conftest import Server
from tests.serving.test_stream import send_audio, silence, voice
from tests.stand_ins.nginx_gateway import NginxGateway, nginx_program

DEPLOYED, CANDIDATE = "mistere-predictor", "mistere-candidate-predictor"
NEW = "the candidate's"


@pytest.fixture
def candidate() -> Iterator[str]:
    """The address of a server of streams that says which bundle it serves."""

    def answer(stream: ServerConnection) -> None:
        stream.recv(20)
        stream.send(json.dumps({"type": "ready", protocol.BUNDLE_DIGEST: NEW}))

    with serve(answer, "127.0.0.1", 0, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def gateway(server: Server, candidate: str, tmp_path: Path) -> Iterator[NginxGateway]:
    addresses = {DEPLOYED: [f"127.0.0.1:{server.http_port}"], CANDIDATE: [candidate]}
    gateway = NginxGateway(nginx_program(), tmp_path, addresses.__getitem__)
    yield gateway
    gateway.stop()


def opened(gateway: NginxGateway) -> AbstractContextManager[ClientConnection]:
    return connect(f"{gateway.url.replace('http', 'ws', 1)}/v1/stream", compression=None, proxy=None)


def bundle_of(stream: ClientConnection) -> str:
    """The bundle of the server that has taken a stream, as it says itself."""
    stream.send(json.dumps({"type": "start"}))
    ready = json.loads(stream.recv(60))
    assert ready["type"] == "ready"
    return str(ready[protocol.BUNDLE_DIGEST])


def test_a_stream_is_answered_by_the_version_that_it_began_with(
    server: Server, bundle: str, gateway: NginxGateway
) -> None:
    gateway.apply({DEPLOYED: 100, CANDIDATE: 0})
    with opened(gateway) as old:
        assert bundle_of(old) == Path(bundle).name
        gateway.apply({DEPLOYED: 0, CANDIDATE: 100})
        with opened(gateway) as new:
            assert bundle_of(new) == NEW
        send_audio(old, np.concatenate([voice(1.0), silence(1.0)]))
        turn = json.loads(old.recv(60))
    assert (turn["type"], turn["turn"]) == ("turn", 0) and turn["label"]
