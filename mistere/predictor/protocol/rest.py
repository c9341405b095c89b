"""REST: the paths of the Open Inference Protocol (V2) and of V1. Every error response is ``{"error": "..."}``."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from kserve.errors import ModelNotFound, ModelNotReady
from kserve.protocol.rest.server import metrics_handler
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from mistere.predictor import metrics
from mistere.predictor.errors import (
    RequestError,
    as_request_error,
    body_too_large,
    not_ready,
    overloaded,
    printable,
    slow_body,
)
from mistere.predictor.protocol.content_coding import content_coding, decompress
from mistere.predictor.protocol.data_plane import PredictorDataPlane
from mistere.predictor.protocol.document_page import PAGE_HEADERS, PAGE_PATH, document_page
from mistere.predictor.protocol.openapi import OPENAPI_PATH, build_document
from mistere.predictor.protocol.wire import (
    INLINE_BYTES,
    RequestName,
    checked_id,
    parse_json,
    read_rest,
    size_header,
    write_rest,
)
from mistere.predictor.settings import Limits
from mistere.predictor.stream.websocket import STREAM_PATH, WebSocketStreams
from mistere.predictor.tracing.request_trace import TRACEPARENT, TRACING
from mistere.serving import protocol

_BODIES = 64
"""Bodies of the largest size that fit into the memory for bodies, including those still being received."""


def json_response(content: Any, code: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response."""
    return Response(orjson.dumps(content), code, headers=headers, media_type="application/json")


def error_response(error: RequestError) -> Response:
    """The response to a failed request."""
    return json_response({"error": error.message}, error.code, error.headers)


class Bodies:
    """Reads bodies, with limits on the size and time of each and on the size of all together.

    Args:
        limits: limits of a request.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held = 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Read a whole body, decompressed; it counts as held until the context ends.

        Raises:
            RequestError: the body is too large or too slow, is not what its coding says, or there are too many bodies.
        """
        limit = self._limits.request_bytes
        coding = content_coding(request.headers.getlist("content-encoding"))
        announced = request.headers.get("content-length", "")
        if announced.isdigit() and int(announced) > limit:
            raise body_too_large(limit)
        held = 0
        try:
            chunks = bytearray()
            try:
                async with asyncio.timeout(self._limits.body_seconds):
                    async for chunk in request.stream():
                        if held + len(chunk) > limit:
                            raise body_too_large(limit)
                        self._hold(len(chunk))
                        held += len(chunk)
                        chunks += chunk
            except TimeoutError as error:
                raise slow_body(self._limits.body_seconds) from error
            body = bytes(chunks)
            del chunks
            if coding is not None:
                self._hold(limit)  # it may grow so large, and its size is known only then
                held += limit
                body = await asyncio.to_thread(decompress, body, coding, limit)
                self._held -= held - len(body)
                held = len(body)
            yield body
        finally:
            self._held -= held

    def _hold(self, size: int) -> None:
        if self._held + size > _BODIES * self._limits.request_bytes:
            raise overloaded(1)
        self._held += size


async def _answer_while_connected(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """Await the response; cancel the work if the client disconnects.

    Raises:
        ClientDisconnect: the client has disconnected.
    """

    async def disconnected() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    answering, leaving = asyncio.ensure_future(work), asyncio.ensure_future(disconnected())
    try:
        await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if answering.done():
            return answering.result()
        raise ClientDisconnect
    finally:
        answering.cancel()
        leaving.cancel()


class RestEndpoints:
    """The handlers of the paths.

    Args:
        data_plane: shared with gRPC.
        limits: limits of a request.
    """

    def __init__(self, data_plane: PredictorDataPlane, limits: Limits) -> None:
        self._data_plane = data_plane
        self._limits = limits
        self._bodies = Bodies(limits)

    async def infer(self, model_name: str, request: Request) -> Response:
        """``POST /v2/models/{model}/infer``, also below ``/versions/{version}``."""

        async def answer(body: bytes, name: RequestName) -> Response:
            header = request.headers.get(protocol.BINARY_HEADER)
            payload = await self._parse(len(body), lambda: read_rest(body, header, model_name))
            payload.id = name.identity = payload.id or name.identity
            response, _ = await self._data_plane.infer(model_name, payload, size_header(body))
            content, headers = write_rest(response, payload)
            return Response(content, headers=headers)

        return await self._answer(model_name, request, "rest_v2", answer)

    async def predict(self, model_name: str, request: Request) -> Response:
        """``POST /v1/models/{model}:predict``."""

        async def answer(body: bytes, name: RequestName) -> Response:
            payload = await self._parse(len(body), lambda: parse_json(body))
            payload["id"] = name.identity = checked_id(payload.get("id")) or name.identity
            response, _ = await self._data_plane.infer(model_name, payload, size_header(body))
            return json_response(response)

        return await self._answer(model_name, request, "rest_v1", answer)

    async def _answer(
        self,
        model_name: str,
        request: Request,
        kind: str,
        answer: Callable[[bytes, RequestName], Coroutine[Any, Any, Response]],
    ) -> Response:
        name = RequestName(printable(request.headers.get(protocol.REQUEST_ID_HEADER, "")) or str(uuid.uuid4()))
        trace = TRACING.begin(kind, lambda: request.headers.get(TRACEPARENT))
        failure: RequestError | None = None
        try:
            await self._data_plane.admit(model_name, _version(request))
            async with self._bodies.read(request) as body:
                response = await _answer_while_connected(request, answer(body, name))
        except ClientDisconnect:
            response = Response(status_code=499)
        except Exception as error:
            failure = as_request_error(error, name.identity, self._limits.utterance_seconds)
            response = error_response(failure)
        metrics.labelled(metrics.REQUESTS, kind, str(response.status_code)).inc()
        TRACING.end(trace, str(response.status_code), response.status_code >= 500, name.identity, failure)
        return response

    @staticmethod
    async def _parse(size: int, parse: Callable[[], Any]) -> Any:
        return parse() if size <= INLINE_BYTES else await asyncio.to_thread(parse)

    async def live(self) -> Response:
        """``GET /v2/health/live``."""
        return json_response({"live": True})

    async def ready(self) -> Response:
        """``GET /v2/health/ready``."""
        if not await self._data_plane.ready():
            raise not_ready()
        return json_response({"ready": True})

    async def server_metadata(self) -> Response:
        """``GET /v2``."""
        return json_response(self._data_plane.metadata())

    async def models(self) -> Response:
        """``GET /v1/models`` and ``GET /v2/models``."""
        return json_response({"models": sorted(self._data_plane.model_registry.get_models())})

    async def model_metadata(self, model_name: str, request: Request) -> Response:
        """``GET /v2/models/{model}``, also below ``/versions/{version}``."""
        await self._data_plane.check_version(model_name, _version(request))
        return json_response(await self._data_plane.model_metadata(model_name))

    async def model_ready(self, model_name: str, request: Request) -> Response:
        """``GET /v2/models/{model}/ready``, also below ``/versions/{version}``, and ``GET /v1/models/{model}``."""
        await self._data_plane.check_version(model_name, _version(request))
        if not await self._data_plane.model_ready(model_name):
            raise not_ready()
        return json_response({"name": model_name, "ready": True})

    async def document(self) -> Response:
        """``GET /openapi.json``, with the model's labels once it is loaded."""
        return json_response(await self._build_document())

    async def page(self) -> Response:
        """``GET /docs``: the same document as a page, which loads nothing from other hosts."""
        return Response(document_page(await self._build_document()), headers=PAGE_HEADERS, media_type="text/html")

    async def _build_document(self) -> dict[str, Any]:
        models = self._data_plane.model_registry.get_models()
        name = min(models, default="")
        metadata = await self._data_plane.model_metadata(name) if name and models[name].ready else None
        return build_document(self._limits, name or None, metadata)


async def _answer_post(answer: Callable[[str, Request], Awaitable[Response]], request: Request) -> Response:
    return await answer(request.path_params["model_name"], request)


def _version(request: Request) -> str:
    """The version in a path; empty without one."""
    return str(request.path_params.get("version", ""))


def build_application(
    data_plane: PredictorDataPlane, limits: Limits, streams: WebSocketStreams | None = None
) -> FastAPI:
    """Build the REST application, without kserve's paths for loading and unloading models.

    Args:
        data_plane: shared with gRPC.
        limits: limits of a request.
        streams: serves streams; None serves none.
    """
    application = FastAPI(
        title="MiSTER-E predictor", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
    )
    endpoints = RestEndpoints(data_plane, limits)
    for path, handler in (
        ("/", endpoints.live),
        ("/metrics", metrics_handler),
        (OPENAPI_PATH, endpoints.document),
        (PAGE_PATH, endpoints.page),
        ("/v1/models", endpoints.models),
        ("/v1/models/{model_name}", endpoints.model_ready),
        ("/v2", endpoints.server_metadata),
        (protocol.LIVE_PATH, endpoints.live),
        (protocol.READY_PATH, endpoints.ready),
        ("/v2/models", endpoints.models),
        ("/v2/models/{model_name}", endpoints.model_metadata),
        ("/v2/models/{model_name}/ready", endpoints.model_ready),
        ("/v2/models/{model_name}/versions/{version}", endpoints.model_metadata),
        ("/v2/models/{model_name}/versions/{version}/ready", endpoints.model_ready),
    ):
        application.add_api_route(path, handler, methods=["GET", "HEAD"], response_model=None)
    for path, answer in (
        ("/v1/models/{model_name}:predict", endpoints.predict),
        ("/v2/models/{model_name}/infer", endpoints.infer),
        ("/v2/models/{model_name}/versions/{version}/infer", endpoints.infer),
    ):
        # Starlette's route: FastAPI's takes 0.1 ms to find that there is nothing to inject (`mistere bench serve`).
        application.add_route(path, partial(_answer_post, answer), methods=["POST"])
    if streams is not None:
        application.add_api_websocket_route(STREAM_PATH, streams.serve)

    async def on_error(_: Request, error: Exception) -> Response:
        return error_response(as_request_error(error, str(uuid.uuid4()), limits.utterance_seconds))

    async def on_http_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        sentence = {404: "There is no such path.", 405: "This path does not take that method."}
        code = error.status_code
        return json_response(
            {"error": sentence.get(code, "The request is malformed.")}, code, dict(error.headers or {})
        )

    for kind in (RequestError, ModelNotFound, ModelNotReady, Exception):
        application.add_exception_handler(kind, on_error)
    application.add_exception_handler(HTTPException, on_http_error)
    return application
