"""The server's life cycle: health checks during loading, and a drain before the ports close, so that no request is lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import uvicorn
import uvloop
from kserve import ModelServer
from kserve.logging import logger

from mistere.artifacts.object_store import UnreachableError
from mistere.common.errors import MistereError
from mistere.predictor.connections.http_protocol import LimitedHttpProtocol
from mistere.predictor.connections.limits import ACCEPTED_AT_ONCE, connection_limit
from mistere.predictor.connections.log_limit import limit_repeated_lines
from mistere.predictor.connections.registry import Connections
from mistere.predictor.connections.stream_protocol import LimitedStreamProtocol
from mistere.predictor.connections.web_pages import WebPages, guarded
from mistere.predictor.model import EmotionPredictor
from mistere.predictor.protocol.data_plane import PredictorDataPlane
from mistere.predictor.protocol.grpc_service import PredictorGRPCServer
from mistere.predictor.protocol.rest import build_application
from mistere.predictor.settings import ServerSettings
from mistere.predictor.stream.messages import MAX_MESSAGE_BYTES
from mistere.predictor.stream.streams import Streams
from mistere.predictor.stream.websocket import WebSocketStreams

_FIRST_PAUSE, _MAX_PAUSE = 1.0, 30.0  # seconds
_BACKLOG = 1024
"""Connections that the kernel holds until they are accepted."""


class _RestServer(uvicorn.Server):
    """Uvicorn without signal handlers (the model server drains REST and gRPC together), which accepts few connections at once."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen. asyncio accepts as many connections in one step as the kernel may hold, so the two are set one after the other."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_BACKLOG)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class PredictorServer(ModelServer):  # type: ignore[misc]  # kserve has no type information
    """A :class:`kserve.ModelServer` that answers health checks while it loads, and drains before it stops.

    Args:
        settings: the server's settings.
        http: the bound REST port.
        grpc: the bound gRPC port; closed just before gRPC binds it.
        on_ready: called once, when all models are loaded.

    Attributes:
        stopped_by: the number of the signal that stopped the server; 0 without one.
    """

    def __init__(
        self,
        settings: ServerSettings,
        http: socket.socket,
        grpc: socket.socket,
        on_ready: Callable[[], object] | None = None,
    ) -> None:
        super().__init__(
            http_port=settings.http_port,
            grpc_port=settings.grpc_port,
            enable_latency_logging=False,
            grace_period=settings.options.grace_seconds,
        )
        logger.setLevel(settings.options.log_level.upper())
        self._http_socket, self._grpc_socket = http, grpc
        self._http_option, self._on_ready = settings.http_option, on_ready
        self.stopped_by = 0
        self._drain_seconds = settings.options.drain_seconds
        self._stopping = asyncio.Event()
        self._models: list[EmotionPredictor] = []
        self.dataplane = PredictorDataPlane(self.registered_models, self._is_ready)
        limits = settings.limits
        most = connection_limit(limits.connections)
        self._streams = Streams(self.dataplane, limits) if limits.streams else None
        self._grpc = PredictorGRPCServer(self.dataplane, settings, most, self._streams)
        pages = WebPages(settings.host, settings.options.stream_origins)
        sockets = None if self._streams is None else WebSocketStreams(self._streams, pages)
        connections = Connections(most)
        self._rest = _RestServer(
            uvicorn.Config(
                guarded(build_application(self.dataplane, limits, sockets), pages),
                http=partial(LimitedHttpProtocol, connections, limits),  # type: ignore[arg-type]  # called as a class is
                ws=partial(LimitedStreamProtocol, connections, limits) if self._streams else "none",  # type: ignore[arg-type]
                ws_max_size=2 * MAX_MESSAGE_BYTES,  # up to it, the session answers with a sentence
                ws_ping_timeout=None,  # a pong waits behind audio that is not read yet; other timers find dead clients
                ws_per_message_deflate=False,  # audio hardly shrinks, and a small message could grow to gigabytes
                backlog=ACCEPTED_AT_ONCE,
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="off",
                timeout_keep_alive=math.ceil(limits.idle_seconds),
            )
        )
        # At INFO uvicorn writes the query of a stream's URL, in which browsers send their token.
        logging.getLogger("uvicorn.error").setLevel(max(logging.WARNING, logger.level))
        limit_repeated_lines()

    def _is_ready(self) -> bool:
        return not self._stopping.is_set() and all(model.ready for model in self._models)

    def start(self, models: Sequence[EmotionPredictor]) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            MistereError: the bundle or a port cannot be used.
        """
        for model in models:
            self.register_model(model)
            self._models.append(model)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # 0.1 ms less for a request than asyncio's
            runner.run(self._serve_until_stopped())
        for model in models:
            model.close()

    def stop(self, sig: int) -> None:
        """Turn not ready, and stop after the drain time, or at once for SIGINT."""
        self.stopped_by = self.stopped_by or sig
        if sig == signal.SIGINT:
            self._drain_seconds = 0.0
        self._stopping.set()

    async def _serve_until_stopped(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop, number)
        self._grpc_socket.close()
        await self._grpc.start()
        rest = asyncio.create_task(self._rest.serve(sockets=[self._http_socket]))
        stopping = asyncio.create_task(self._stopping.wait())
        loading = self._load(loop)
        awaited: set[asyncio.Future[Any]] = {rest, stopping, loading}
        await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
        failure = loading.exception() if loading.done() else None
        grace = float(self.grace_period)
        if failure is None:
            if loading.done():
                logger.info("ready: REST on port %d, gRPC on port %d", self.http_port, self.grpc_port)
                if self._on_ready is not None:
                    self._on_ready()
            await asyncio.wait(awaited - {loading}, return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                logger.info("stopping")
                deadline = loop.time() + self._drain_seconds + grace
                await asyncio.gather(asyncio.sleep(self._drain_seconds), self._drain_streams())
                grace = max(1.0, deadline - loop.time())  # what the streams have left
        self._rest.config.timeout_graceful_shutdown = math.ceil(grace)
        self._rest.should_exit = True
        ended, _ = await asyncio.gather(rest, self._grpc.stop(grace), return_exceptions=True)
        stopping.cancel()
        if failure is not None:
            raise failure
        if isinstance(ended, OSError):
            raise MistereError(
                f"Port {self.http_port} cannot be listened on: choose another {self._http_option}."
            ) from ended
        if isinstance(ended, BaseException):
            raise ended

    async def _drain_streams(self) -> None:
        if self._streams is not None:
            await self._streams.drain(0.0 if self.stopped_by == signal.SIGINT else self.grace_period)

    def _load(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """Load in a daemon thread, so that a stop does not wait for a long load."""
        loaded: asyncio.Future[None] = loop.create_future()

        def settle(error: Exception | None) -> None:
            if error is None:
                loaded.set_result(None)
            else:
                loaded.set_exception(error)

        def load() -> None:
            failure: Exception | None = None
            try:
                for model in self._models:
                    self._load_with_retries(model)
            except Exception as error:
                failure = error
            with contextlib.suppress(RuntimeError):  # the event loop is closed: the server has stopped
                loop.call_soon_threadsafe(settle, failure)

        threading.Thread(target=load, name="load", daemon=True).start()
        return loaded

    def _load_with_retries(self, model: EmotionPredictor) -> None:
        """Load; while the object store is unreachable, retry until it answers or the server stops."""
        pause = _FIRST_PAUSE
        while True:
            try:
                model.load()
                return
            except UnreachableError as error:
                if self._stopping.is_set():
                    raise
                logger.warning("not ready: %s Retrying in %g s.", error, pause)
                time.sleep(pause)
                pause = min(2 * pause, _MAX_PAUSE)
