"""Which web pages may use the server, as far as ``Host`` and ``Origin`` tell, which no page can forge.

Browsers let a page send a request to every host, also to local ones, but show it the answer only if it is of the page's own host. With
DNS rebinding, a name of the attacker resolves to this machine, so that the page of an attacker and a server on loopback have the
same host. Streams have no such rule: a page may open one to every host.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import orjson

from mistere.common.parsing.web_headers import host_name, is_address, is_loopback, parse_origin

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_REFUSAL: Final = orjson.dumps(
    {"error": "This server is for its own machine: a page reaches it as localhost, or is named in --stream-origin."}
)
_HEADERS: Final = ((b"content-type", b"application/json"), (b"content-length", str(len(_REFUSAL)).encode()))


class WebPages:
    """The pages that may use the server.

    Args:
        host: the address that the server listens on.
        origins: pages of other hosts that may open a stream.
    """

    def __init__(self, host: str, origins: tuple[str, ...] = ()) -> None:
        self._host = host.lower()
        self._origins = {parse_origin(origin) for origin in origins}
        self.guards_names = is_loopback(self._host)
        """Whether names of other machines are refused."""

    def may_stream(self, origin: str | None, host: str) -> bool:
        """Whether a stream may be opened: by what is no page, by a page of this server's host, and by one that is named.

        Args:
            origin: the header; None without one.
            host: the header.
        """
        if origin is None:
            return True
        page = parse_origin(origin)
        if page is None:
            return False
        return page in self._origins or (page == parse_origin(f"{page[0]}://{host}") and not self.is_rebound(origin))

    def is_rebound(self, origin: str) -> bool:
        """Whether a page that has this server's host may have it by DNS rebinding.

        An address is none of DNS. A page that came by TLS cannot open connections without it, and this server has none: a proxy
        has it, and sends the page's name on.

        Args:
            origin: the header.
        """
        page = parse_origin(origin)
        if not self.guards_names or page is None or page in self._origins:
            return False
        scheme, name, _ = page
        return scheme == "http" and name not in ("localhost", self._host) and not is_address(name)


def guarded(application: Application, pages: WebPages) -> Application:
    """Refuse requests of pages that have a server on loopback as their host by another name than its own.

    Args:
        application: the REST application.
        pages: the pages that may use it.
    """
    if not pages.guards_names:
        return application

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope.get("headers", ()))
        origin = headers.get(b"origin", b"").decode("latin-1")
        same = (
            origin and host_name(headers.get(b"host", b"").decode("latin-1")) == (parse_origin(origin) or ("", ""))[1]
        )
        if scope["type"] != "http" or not same or not pages.is_rebound(origin):
            await application(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 403, "headers": _HEADERS})
        await send({"type": "http.response.body", "body": _REFUSAL})

    return answer
