"""The page's server: it serves only the paths that the page needs, and keeps the page from contacting other hosts."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Final

from mistere.common.errors import UsageError
from pipelines.cli.demo import page as pages
from pipelines.cli.demo.events import Application, Receive, Scope, Send, checked_events
from pipelines.cli.demo.live import SCRIPT_TAG, SOCKET_PATH, LiveAudio, relay, script
from pipelines.cli.demo.origin import AllowedHosts
from pipelines.cli.demo.rendering import style

if TYPE_CHECKING:
    import gradio

_POLICY: Final = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS: Final = [
    (b"content-security-policy", _POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]
_ALLOWED_PATHS: Final = re.compile(
    r"/|/(assets|static|svelte)/.*|/(theme\.css|favicon\.ico|manifest\.json|config)"
    r"|/gradio_api/(queue/(join|data)|upload|upload_progress|heartbeat/.*|cancel|reset|app_id|theme\.css"
    r"|file=(?![A-Za-z][\w+.-]+:).*)"  # of a URL Gradio would send the content
)
_OTHER_PATH: Final = (404, b"Not part of the page.\n")
_OTHER_HOSTS: Final = re.compile(rb"<meta\s[^>]*content=\"https?://[^>]*>\s*")
_MAX_UPLOAD: Final = "8mb"
_MAX_SOUND: Final = 1 << 16
"""Bytes of a message of the page's microphone: 2 s."""


def serve_page(
    page: gradio.Blocks,
    listener: socket.socket,
    hosts: AllowedHosts,
    on_ready: Callable[[str], object],
    live: LiveAudio | None = None,
) -> None:
    """Serve until interrupted.

    Args:
        page: result of :func:`pipelines.cli.demo.page.build_page`.
        listener: result of :func:`listen`; closed at the end.
        hosts: the names of the page.
        on_ready: called with the page's address.
        live: what answers the page's microphone; None for a page without one.
    """
    import uvicorn

    with listener:
        application = page_application(page, hosts, live)
        host, port = listener.getsockname()[:2]
        named = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104  (compared, not listened on)
        on_ready(f"http://{named}:{port}")
        config = uvicorn.Config(
            application,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=2,
            ws_max_size=_MAX_SOUND,
            ws_per_message_deflate=False,
        )
        uvicorn.Server(config).run(sockets=[listener])


def page_application(page: gradio.Blocks, hosts: AllowedHosts, live: LiveAudio | None = None) -> Application:
    """Gradio's server of the page, restricted to the page.

    Args:
        page: result of :func:`pipelines.cli.demo.page.build_page`.
        hosts: the names of the page.
        live: what answers the page's microphone; None for a page without one.
    """
    import fastapi
    import gradio as gr

    # Gradio checks that a file was uploaded only on a page that has been launched, and mounting one does not launch it.
    page.has_launched = True
    outer = gr.mount_gradio_app(
        fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        page,
        path="/",
        theme=pages.theme(),
        head=style() + (SCRIPT_TAG if live else ""),
        max_file_size=_MAX_UPLOAD,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
        show_error=False,
    )
    return closed_page(checked_events(outer, page), hosts, live)


def closed_page(inner: Application, hosts: AllowedHosts, live: LiveAudio | None = None) -> Application:
    """Restrict Gradio's server to the page, and add a content security policy that allows only this server.

    Gradio's API, proxy and monitoring return 404; tags that name other hosts are removed. Requests for other hosts and from
    other pages are refused, and so is every WebSocket but that of the microphone.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            if live is None or scope["path"] != SOCKET_PATH or hosts.refusal(scope["headers"]) is not None:
                await send({"type": "websocket.close", "code": 1008})
                return
            from starlette.websockets import WebSocket

            await relay(WebSocket(scope, receive, send), live.url)
            return
        if scope["type"] != "http":
            await inner(scope, receive, send)
            return
        refusal = hosts.refusal(scope["headers"])
        if refusal is None and live is not None and (content := script(scope["path"])) is not None:
            kind = [(b"content-type", b"text/javascript; charset=utf-8"), *_HEADERS]
            await send({"type": "http.response.start", "status": 200, "headers": kind})
            await send({"type": "http.response.body", "body": content})
            return
        if refusal is None and not _ALLOWED_PATHS.fullmatch(scope["path"]):
            refusal = _OTHER_PATH
        if refusal is not None:
            status, text = refusal
            await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": text})
            return
        if scope["path"] != "/":
            await inner(scope, receive, _with_headers(send))
            return
        scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        await inner(scope, receive, _without_other_hosts(_with_headers(send)))

    return answer


def _with_headers(send: Send) -> Send:
    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *_HEADERS]
        await send(message)

    return sending


def _without_other_hosts(send: Send) -> Send:
    """Buffer the page until it is complete, then send it without tags that name other hosts."""
    start: MutableMapping[str, Any] = {}
    body = bytearray()

    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
            return
        body.extend(message.get("body", b""))
        if message.get("more_body"):
            return
        text = _OTHER_HOSTS.sub(b"", bytes(body))
        headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
        await send({**start, "headers": [*headers, (b"content-length", str(len(text)).encode())]})
        await send({"type": "http.response.body", "body": text})

    return sending


def listen(host: str, port: int) -> socket.socket:
    """Bind the page's port; 0 chooses a free one.

    Raises:
        UsageError: the port is in use, or the address is not one of this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        known = error.errno is not None and not isinstance(error, socket.gaierror)
        reason = os.strerror(error.errno).lower() if known and error.errno else "no such address"
        raise UsageError(f"{host}:{port} cannot be used ({reason}): choose another with --port or --host.") from error
