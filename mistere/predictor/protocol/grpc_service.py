"""gRPC: the Open Inference Protocol's service with kserve's messages and the contract's status codes."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.servicer import InferenceServicer
from kserve.protocol.model_repository_extension import ModelRepositoryExtension

from mistere.common.errors import MistereError
from mistere.predictor import metrics
from mistere.predictor.errors import RequestError, as_request_error, invalid, slow_body
from mistere.predictor.protocol.data_plane import PredictorDataPlane
from mistere.predictor.protocol.wire import INLINE_BYTES, RequestName, read_grpc, size_header, write_grpc
from mistere.predictor.settings import ServerSettings
from mistere.predictor.stream.grpc_stream import GrpcStreams
from mistere.predictor.stream.streams import Streams
from mistere.predictor.tracing.request_trace import TRACEPARENT, TRACING

SERVICE = "inference.GRPCInferenceService"
_MAX_CALLS = 64
"""Concurrent calls besides those in the queue; each may hold a message of the largest size."""
_AGE_SECONDS = 600
"""Age at which a connection ends once its calls are answered; clients open a new one by themselves."""
_STREAM_SECONDS = 4 * 3600
"""Time that a stream of live audio has after that."""
_PING_SECONDS, _PING_TIMEOUT_SECONDS = 30, 10
"""A client that is silent for this long is pinged, and must answer in the second time. Clients may ping at half the first."""

_SERVER_FAILURES = frozenset({"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"})
"""The statuses that a span of a server marks as errors, by OpenTelemetry's conventions."""


class PredictorServicer(InferenceServicer):  # type: ignore[misc]  # kserve has no type information
    """kserve's servicer with an own parser for inference, so that a malformed message is INVALID_ARGUMENT."""

    def __init__(self, data_plane: PredictorDataPlane) -> None:
        super().__init__(data_plane, ModelRepositoryExtension(data_plane.model_registry))
        self._predictor = data_plane

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Whether a model is ready."""
        await self._predictor.check_version(request.name, request.version)
        return await super().ModelReady(request, context)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Tensors and version of a model."""
        await self._predictor.check_version(request.name, request.version)
        content = await self._predictor.model_metadata(model_name=request.name)
        content.pop("properties")
        return pb.ModelMetadataResponse(**content)

    async def infer(self, message: bytes, name: RequestName) -> Any:
        """Answer one ``ModelInferRequest``."""
        if len(message) > INLINE_BYTES:
            request, typed = await asyncio.to_thread(read_grpc, message)
        else:
            request, typed = read_grpc(message)
        request.id = name.identity = request.id or name.identity
        await self._predictor.admit(request.model_name, request.model_version or "")
        response, _ = await self._predictor.infer(request.model_name, request, size_header(message))
        return write_grpc(response, typed)


class PredictorGRPCServer:
    """The gRPC side of the server.

    Args:
        data_plane: shared with REST.
        settings: address, port and limits.
        connections: the most connections.
        streams: serves streams; None serves none.
    """

    def __init__(
        self,
        data_plane: PredictorDataPlane,
        settings: ServerSettings,
        connections: int,
        streams: Streams | None = None,
    ) -> None:
        self._settings = settings
        self._streams = None if streams is None else GrpcStreams(streams, settings.limits)
        self._connections = connections
        self._servicer = PredictorServicer(data_plane)
        self._server: Any = None

    async def start(self) -> None:
        """Listen.

        Raises:
            MistereError: the port is in use.
        """
        limits = self._settings.limits
        calls = _MAX_CALLS + limits.waiting_requests + limits.streams
        grace = max(self._settings.options.grace_seconds, _STREAM_SECONDS if self._streams else 0)
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", limits.request_bytes),
                ("grpc.max_send_message_length", limits.request_bytes),
                ("grpc.so_reuseport", 0),
                ("grpc.max_allowed_incoming_connections", self._connections),
                ("grpc.max_concurrent_streams", calls),
                ("grpc.server_handshake_timeout_ms", int(1000 * limits.head_seconds)),
                ("grpc.max_connection_idle_ms", int(1000 * limits.idle_seconds)),
                ("grpc.max_connection_age_ms", _AGE_SECONDS * 1000),
                ("grpc.max_connection_age_grace_ms", grace * 1000),
                ("grpc.keepalive_time_ms", _PING_SECONDS * 1000),
                ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_SECONDS * 1000),
                ("grpc.http2.min_ping_interval_without_data_ms", _PING_SECONDS * 1000 // 2),
                ("grpc.http2.max_ping_strikes", 2),
            ],
            maximum_concurrent_rpcs=calls,
        )
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, self._methods()),))
        if self._streams is not None:
            self._server.add_generic_rpc_handlers((self._streams.handler(),))
        host = self._settings.host
        address = "[::]" if host == "0.0.0.0" else f"[{host}]" if ":" in host else host  # noqa: S104  (compared, not listened on)
        try:
            if not self._server.add_insecure_port(f"{address}:{self._settings.grpc_port}"):
                raise RuntimeError
        except RuntimeError as error:
            port = self._settings.grpc_port
            raise MistereError(f"Port {port} is already in use: choose another --grpc-port.") from error
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Accept no more calls, and wait at most ``grace`` seconds for those in flight."""
        if self._server is not None:
            await self._server.stop(grace)

    def _methods(self) -> dict[str, Any]:
        """Register every unary method as a stream-unary one.

        Both are equal on the wire. With a stream the handler itself reads the message, so it can limit the time and answer a
        malformed message with INVALID_ARGUMENT; for a unary method grpc does both, without a limit.
        """
        names = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata")
        handlers = {name: self._guarded(name) for name in names} | {"ModelInfer": self._infer}
        return {
            name: grpc.stream_unary_rpc_method_handler(
                handler,
                request_deserializer=None,
                response_serializer=getattr(pb, f"{name}Response").SerializeToString,
            )
            for name, handler in handlers.items()
        }

    async def _message(self, context: Any) -> bytes:
        seconds = self._settings.limits.body_seconds
        try:
            async with asyncio.timeout(seconds):
                message = await context.read()
        except TimeoutError as error:
            raise slow_body(seconds) from error
        if not isinstance(message, bytes):
            raise invalid("The call came without a message.")
        return message

    async def _infer(self, _: Any, context: Any) -> Any:
        name = RequestName(str(uuid.uuid4()))
        status = "CANCELLED"
        failure: RequestError | None = None
        trace = TRACING.begin("grpc", lambda: dict(context.invocation_metadata() or ()).get(TRACEPARENT))
        try:
            answer = await self._servicer.infer(await self._message(context), name)
            status = "OK"
            return answer
        except Exception as error:
            failure = as_request_error(error, name.identity, self._settings.limits.utterance_seconds)
            status = failure.status
            if "Retry-After" in failure.headers:
                context.set_trailing_metadata((("retry-after", failure.headers["Retry-After"]),))
            await context.abort(grpc.StatusCode[failure.status], failure.message)
        finally:
            metrics.labelled(metrics.REQUESTS, "grpc", status).inc()
            TRACING.end(trace, status, status in _SERVER_FAILURES, name.identity, failure)

    def _guarded(self, name: str) -> Callable[[Any, Any], Awaitable[Any]]:
        method, kind = getattr(self._servicer, name), getattr(pb, f"{name}Request")

        async def guarded(_: Any, context: Any) -> Any:
            try:
                message = await self._message(context)
                try:
                    request = kind.FromString(message)
                except (DecodeError, UnicodeDecodeError) as error:
                    raise invalid(f"The message is not a {name}Request.") from error
                return await method(request, context)
            except Exception as error:
                failure = as_request_error(error, str(uuid.uuid4()), self._settings.limits.utterance_seconds)
                await context.abort(grpc.StatusCode[failure.status], failure.message)

        return guarded
