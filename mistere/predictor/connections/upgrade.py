"""Parse a request that offers another protocol than WebSocket as the HTTP/1.1 request that it also is.

Java's HttpClient, which Spring uses by default, offers HTTP/2 (``Upgrade: h2c``) with a request and its body. A server may ignore
the offer (RFC 9110, section 7.8), as this one does. httptools takes the offer for accepted: it skips the body and reports its bytes as those
of the other protocol, which uvicorn drops. Delete this when uvicorn reads the body of such a request.
"""

from __future__ import annotations

from array import array
from typing import Protocol

import httptools


class ParsedHead(Protocol):
    """The part of uvicorn's protocol that holds the head that was parsed last."""

    parser: httptools.HttpRequestParser
    url: bytes
    headers: list[tuple[bytes, bytes]]

    def accepts_upgrade(self) -> bool:
        """Whether the offer is accepted."""


class UpgradeIgnoringParser(httptools.HttpRequestParser):
    """httptools' parser, which parses a head that offers another protocol again without the offer, and then the body.

    Args:
        protocol: receives the events; those of the second parsing replace those of the first one.
    """

    def __init__(self, protocol: ParsedHead) -> None:
        super().__init__(protocol)
        self._protocol = protocol
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does

    def offers_upgrade(self) -> bool:
        """Whether the head, now complete, will be parsed again without its offer."""
        return bool(self.should_upgrade()) and self.get_method() != b"CONNECT" and not self._protocol.accepts_upgrade()

    def feed_data(self, data: bytes | bytearray | memoryview[int] | array[int]) -> None:
        """Parse the next bytes of the connection."""
        try:
            super().feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            if not self.offers_upgrade():
                raise
            (end,) = offer.args
            self._protocol.parser = UpgradeIgnoringParser(self._protocol)
            self._protocol.parser.feed_data(self._plain_head() + bytes(data)[end:])

    def _plain_head(self) -> bytes:
        version = self.get_http_version().encode()
        headers = [name + b": " + value for name, value in self._protocol.headers if name != b"upgrade"]
        request = self.get_method() + b" " + self._protocol.url + b" HTTP/" + version
        return b"\r\n".join([request, *headers, b"", b""])
