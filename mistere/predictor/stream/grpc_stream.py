"""``live_audio.v1.LiveAudio/Stream``: a stream over gRPC, beside the Open Inference Protocol on its port.

``docs/examples/live_audio.proto`` describes the messages to clients. Its two messages are declared again here, so that the server needs no generated
module; a test compares both.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc
import orjson
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from mistere.predictor.settings import Limits
from mistere.predictor.stream.messages import CloseCode, StreamError
from mistere.predictor.stream.session import Receive, Send
from mistere.predictor.stream.streams import ClientLeftError, Streams
from mistere.predictor.tracing.request_trace import TRACEPARENT

SERVICE: Final = "live_audio.v1.LiveAudio"
_END: Final = '{"type":"end"}'
_STATUS: Final = {
    CloseCode.GOING_AWAY: grpc.StatusCode.UNAVAILABLE,
    CloseCode.UNSUPPORTED: grpc.StatusCode.INVALID_ARGUMENT,
    CloseCode.POLICY: grpc.StatusCode.INVALID_ARGUMENT,
    CloseCode.TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    CloseCode.INTERNAL: grpc.StatusCode.INTERNAL,
    CloseCode.TRY_LATER: grpc.StatusCode.UNAVAILABLE,
}


def declared_file() -> descriptor_pb2.FileDescriptorProto:
    """``live_audio.proto`` without its service."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="live_audio.proto", package="live_audio.v1", syntax="proto3")
    client = file.message_type.add(name="ClientMessage")
    client.oneof_decl.add(name="content")
    for number, (name, kind) in enumerate((("audio", field.TYPE_BYTES), ("control", field.TYPE_STRING)), start=1):
        client.field.add(name=name, json_name=name, number=number, label=field.LABEL_OPTIONAL, type=kind, oneof_index=0)
    server = file.message_type.add(name="ServerMessage")
    server.field.add(name="json", json_name="json", number=1, label=field.LABEL_OPTIONAL, type=field.TYPE_STRING)
    return file


_POOL: Final = descriptor_pool.DescriptorPool()
_POOL.Add(declared_file())
ClientMessage: Final = message_factory.GetMessageClass(_POOL.FindMessageTypeByName("live_audio.v1.ClientMessage"))
ServerMessage: Final = message_factory.GetMessageClass(_POOL.FindMessageTypeByName("live_audio.v1.ServerMessage"))


class GrpcStreams:
    """Serves streams over gRPC.

    Args:
        streams: all streams of the server.
        limits: seconds that a client may stall.
    """

    def __init__(self, streams: Streams, limits: Limits) -> None:
        self._streams, self._stall_seconds = streams, limits.body_seconds

    def handler(self) -> Any:
        """The handler of the service."""
        method = grpc.stream_stream_rpc_method_handler(
            self._serve, request_deserializer=None, response_serializer=ServerMessage.SerializeToString
        )
        return grpc.method_handlers_generic_handler(SERVICE, {"Stream": method})

    async def _serve(self, _: Any, context: Any) -> None:
        traceparent = dict(context.invocation_metadata() or ()).get(TRACEPARENT)
        ended = await self._streams.serve(_receive(context), self._send(context), traceparent)
        if ended is None:
            await context.abort(grpc.StatusCode.CANCELLED, f"Nothing was read within {self._stall_seconds:g} s.")
            return
        code, reason = ended
        if code is not CloseCode.DONE:
            await context.abort(_STATUS[code], reason)

    def _send(self, context: Any) -> Send:
        turn = asyncio.Lock()  # gRPC takes one message after the other

        async def send(message: dict[str, Any]) -> None:
            try:
                async with asyncio.timeout(self._stall_seconds), turn:
                    await context.write(ServerMessage(json=orjson.dumps(message).decode()))
            except TimeoutError as error:
                raise ClientLeftError from error

        return send


def _receive(context: Any) -> Receive:
    async def receive() -> bytes | str:
        data = await context.read()
        if not isinstance(data, bytes):  # the client has half-closed the call
            return _END
        try:
            message = ClientMessage.FromString(data)
        except DecodeError as error:
            raise StreamError(CloseCode.UNSUPPORTED, "The message is not a ClientMessage.") from error
        kind = message.WhichOneof("content")
        if kind is None:
            raise StreamError(CloseCode.UNSUPPORTED, "The message has neither audio nor control.")
        content: bytes | str = getattr(message, kind)
        return content

    return receive
