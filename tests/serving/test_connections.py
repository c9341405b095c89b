"""Connections that send slowly, nothing, or do not read, are closed in time, and keep nobody out."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import uvicorn
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

from mistere.common.errors import UsageError
from mistere.predictor.connections import http_protocol
from mistere.predictor.connections.http_protocol import LimitedHttpProtocol
from mistere.predictor.connections.limits import connection_limit
from mistere.predictor.connections.log_limit import RepeatLimit
from mistere.predictor.connections.registry import Connections
from mistere.predictor.settings import Limits
from tests.serving.conftest import Server
from tests.serving.test_errors import HI, infer

HALF_A_HEAD = b"POST /v2/models/mistere/infer HTTP/1.1\r\nHost: x\r\nX-Slow: "
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
WAIT = LIVE.replace(b"/v2/health/live", b"/wait")


def open_files(server: Server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def open_connections(stack: ExitStack, port: int, count: int, sent: bytes) -> list[socket.socket]:
    connections = []
    for number in range(count):
        connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
        if number % 3:  # a third of them sends nothing at all
            connection.sendall(sent)
        connections.append(connection)
    return connections


def call_by_grpc(server: Server) -> bool:
    with grpc.insecure_channel(server.grpc_target) as channel:
        answer = GRPCInferenceServiceStub(channel).ServerLive(pb.ServerLiveRequest(), wait_for_ready=True, timeout=120)
    return bool(answer.live)


def test_half_open_connections_keep_nobody_out_and_fill_no_log(faulty: Server) -> None:
    """The server may open 128 files; 300 connections stand that never finish a head, and 100 that never speak HTTP/2."""
    before = faulty.log.stat().st_size
    with ExitStack() as stack:
        open_connections(stack, faulty.http_port, 300, HALF_A_HEAD)
        open_connections(stack, faulty.grpc_port, 100, b"PRI * HTTP/2.0\r\n")
        for _ in range(5):
            assert infer(faulty, HI).status_code == 200
            assert httpx.get(f"{faulty.url}/v2/health/ready", timeout=60).status_code == 200
        assert open_files(faulty) < 128
        assert call_by_grpc(faulty)  # at the latest when the silent connections are closed
        assert infer(faulty, HI).status_code == 200
    assert faulty.log.stat().st_size - before < 20_000
    assert "Too many open files" not in faulty.log.read_text()


class SmallServer:
    """Uvicorn with the limited protocol around a trivial application, in this event loop."""

    def __init__(self, connections: int = 10, **seconds: float) -> None:
        limits = Limits(**{"head_seconds": 60.0, "body_seconds": 60.0, "idle_seconds": 60.0, **seconds})  # type: ignore[arg-type]
        self.release = asyncio.Event()
        self.connections = Connections(connections)
        protocol: Any = partial(LimitedHttpProtocol, self.connections, limits)
        config = uvicorn.Config(
            self._application, http=protocol, ws="none", log_config=None, lifespan="off", interface="asgi3"
        )
        self._server = uvicorn.Server(config)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]

    async def _application(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/wait":
            await self.release.wait()
        size = 50_000_000 if scope["path"] == "/large" else 2
        headers = [(b"content-length", str(size).encode())]
        if scope["path"] == "/close":
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"x" * size})

    async def __aenter__(self) -> SmallServer:
        self._server.config.load()
        self._server.lifespan = self._server.config.lifespan_class(self._server.config)
        await self._server.startup([self._socket])
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release.set()
        for server in self._server.servers:
            server.close()
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()

    async def send(self, sent: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(sent)
        await writer.drain()
        return reader, writer


async def until_closed(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(120):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""


async def flood(writer: asyncio.StreamWriter, sent: bytes) -> int:
    """Send until the server closes the connection; returns the number of bytes."""
    count = 0
    with pytest.raises(ConnectionError):
        while count < 100_000_000:  # the server discards eight bodies of 8 MiB before it closes
            writer.write(sent)
            await writer.drain()
            count += len(sent)
    return count


async def a_head_that_trickles() -> None:
    async with SmallServer(head_seconds=0.3) as server:
        reader, writer = await server.send(HALF_A_HEAD)
        closed = asyncio.create_task(until_closed(reader))
        while not closed.done():
            writer.write(b"x")
            await asyncio.sleep(0.02)
        assert closed.result().startswith(b"HTTP/1.1 408")


async def a_head_without_end() -> None:
    async with SmallServer() as server:
        reader, writer = await server.send(HALF_A_HEAD)
        answer = asyncio.create_task(until_closed(reader))
        await flood(writer, b"x" * 100_000)
        assert (await answer).startswith(b"HTTP/1.1 431")


async def trailers_without_end() -> None:
    """The application waits for the rest of the body."""
    async with SmallServer() as server:
        head = b"POST /wait HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        _, writer = await server.send(head + b"1\r\nx\r\n0\r\n")
        await flood(writer, b"X-A: " + b"x" * 1000 + b"\r\n")


async def a_large_body_in_small_chunks() -> None:
    """Only what stands outside a body is limited."""
    async with SmallServer() as server:
        head = b"POST /wait HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        reader, writer = await server.send(head)
        for _ in range(40):
            writer.write(b"3\r\nxyz\r\n" * 1000)
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        server.release.set()
        assert (await reader.read(12)).endswith(b"200")


async def a_second_head_that_never_ends() -> None:
    """Uvicorn forgets the limit on idle time at the first byte of the second request."""
    async with SmallServer(head_seconds=0.2) as server:
        reader, _ = await server.send(LIVE + HALF_A_HEAD)
        answer = await until_closed(reader)
        assert b"HTTP/1.1 408 Request Timeout" in answer and b"within 0.2 s" in answer


async def no_second_request() -> None:
    async with SmallServer(idle_seconds=0.2) as server:
        reader, _ = await server.send(LIVE)
        assert (await until_closed(reader)).startswith(b"HTTP/1.1 200")


async def a_body_that_nobody_reads() -> None:
    """The application answers before the body is there, and the client never sends it."""
    async with SmallServer(body_seconds=0.1) as server:
        reader, _ = await server.send(b"POST /unknown HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx")
        assert (await until_closed(reader)).startswith(b"HTTP/1.1 200")


async def a_body_that_does_not_fit() -> None:
    """The response comes before the body, which is then read and discarded until the client closes."""
    async with SmallServer(request_bytes=1_000_000) as server:
        reader, writer = await server.send(b"POST /close HTTP/1.1\r\nHost: x\r\nContent-Length: 6000000\r\n\r\n")
        for _ in range(60):
            writer.write(b"x" * 100_000)
            await writer.drain()
        assert (await until_closed(reader)).endswith(b"\r\n\r\nxx")
        assert len(server.connections) == 1
        writer.close()
        await until_none_is_left(server)


async def a_body_without_end_after_the_response() -> None:
    """Bodies of eight times the limit are discarded, whether the connection is to end or to be used again."""
    for path in (b"/close", b"/again"):
        async with SmallServer(request_bytes=1_000_000) as server:
            reader, writer = await server.send(
                b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n"
            )
            assert (await reader.read(12)).endswith(b"200")
            assert await flood(writer, b"x" * 100_000) > 8_000_000
            await until_none_is_left(server)


async def a_client_that_does_not_close_after_the_response() -> None:
    async with SmallServer(body_seconds=0.2) as server:
        reader, _ = await server.send(b"POST /close HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx")
        assert (await until_closed(reader)).startswith(b"HTTP/1.1 200")
        await until_none_is_left(server)


async def until_none_is_left(server: SmallServer) -> None:
    async with asyncio.timeout(120):
        while server.connections:
            await asyncio.sleep(0.02)


async def a_response_that_nobody_reads() -> None:
    async with SmallServer(body_seconds=0.2) as server:
        await server.send(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(120):
            while not server.connections:
                await asyncio.sleep(0.01)
        await until_none_is_left(server)


async def a_new_connection_replaces_one_that_waits_for_its_client() -> None:
    async with SmallServer(connections=4) as server:
        answered, _ = await server.send(b"POST /close HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        await answered.readuntil(b"\r\n\r\nxx")
        idle, _ = await server.send(LIVE)
        await idle.readuntil(b"\r\n\r\nxx")
        half, _ = await server.send(HALF_A_HEAD)
        computed = [await server.send(WAIT)]
        for first in (answered, idle, half):
            reader, writer = await server.send(LIVE)
            assert (await reader.read(12)).endswith(b"200")
            await until_closed(first)
            writer.close()
            await asyncio.sleep(0.05)
            assert len(server.connections) < 4
            computed.append(await server.send(WAIT))
        await asyncio.sleep(0.05)
        refused, _ = await server.send(LIVE)
        assert (await until_closed(refused)).startswith(b"HTTP/1.1 503")
        server.release.set()
        for reader, _ in computed:
            assert (await reader.read(12)).endswith(b"200")


CASES: list[Callable[[], Awaitable[None]]] = [
    a_head_that_trickles,
    a_head_without_end,
    trailers_without_end,
    a_large_body_in_small_chunks,
    a_second_head_that_never_ends,
    no_second_request,
    a_body_that_nobody_reads,
    a_body_that_does_not_fit,
    a_body_without_end_after_the_response,
    a_client_that_does_not_close_after_the_response,
    a_response_that_nobody_reads,
    a_new_connection_replaces_one_that_waits_for_its_client,
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_every_phase_of_a_connection_is_limited(case: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "_MARGIN", 0.1)
    asyncio.run(case())


def test_the_number_of_connections_stays_below_the_limit_on_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def limit(files: int) -> int:
        monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
        return connection_limit(512)

    assert limit(128) == 32 and limit(1024) == 480 and limit(1 << 20) == 512 and limit(resource.RLIM_INFINITY) == 512
    with pytest.raises(UsageError, match="ulimit -n"):
        limit(64)


def test_repeated_warnings_are_limited_and_counted() -> None:
    now = [0.0]
    limit = RepeatLimit(lambda: now[0])

    def logged(level: int, message: str, *arguments: object) -> str | None:
        record = logging.LogRecord("asyncio", level, __file__, 1, message, arguments, None)
        passes = limit.filter(record)
        assert limit.filter(record) is passes  # a second handler decides as the first one did
        return record.getMessage() if passes else None

    lines = [logged(logging.WARNING, "no room for %s\nfd=7", number) for number in range(1000)]
    assert lines[0] == "no room for 0\nfd=7" and lines[9] is not None and "left out" in lines[9]
    assert not any(lines[10:])
    assert all(logged(logging.INFO, "request=%s", number) for number in range(1000))
    assert logged(logging.ERROR, "another failure")
    now[0] = 61.0
    after = logged(logging.WARNING, "no room for %s\nfd=7", 1000)
    assert after is not None and "990 lines" in after
    passed = sum(logged(logging.WARNING, f"kind {number}") is not None for number in range(10_000))
    assert passed < 300
