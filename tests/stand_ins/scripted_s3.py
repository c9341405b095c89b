"""An S3 server that answers as a test says: the answers of the real S3 API, and those of a server that is no S3.

The error document is that of https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html#RESTErrorResponses.
"""

from __future__ import annotations

import base64
import zlib
from collections import deque
from collections.abc import Callable
from xml.sax.saxutils import escape

from tests.stand_ins.http_server import HttpServer, Reply

XML = {"Content-Type": "application/xml", "x-amz-request-id": "4442587FB7D0A2F9"}
PAGE = Reply(200, b"<!doctype html><title>Welcome</title><p>It works!<br>", {"Content-Type": "text/html"})
"""Of a web server that serves its start page under every path."""


def refusal(status: int, code: str, message: str, **details: str) -> Reply:
    """S3's error document."""
    more = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in details.items())
    body = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{escape(message)}</Message>{more}'
        "<RequestId>4442587FB7D0A2F9</RequestId></Error>"
    )
    return Reply(status, body.encode(), dict(XML))


def content(data: bytes, **headers: str) -> Reply:
    """S3's answer to a GET."""
    return Reply(200, data, {"ETag": '"a"', "Content-Type": "binary/octet-stream", **headers})


def cut(data: bytes) -> Reply:
    """The answer to a GET whose connection ends in the middle."""
    return content(data[: len(data) // 2], **{"Content-Length": str(len(data)), "Connection": "close"})


def crc32(data: bytes) -> str:
    """The value of x-amz-checksum-crc32: https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html."""
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


class ScriptedS3(HttpServer):
    """Answers with the replies of ``script`` in order, and with the last one from then on; ``respond`` computes them instead."""

    def __init__(self) -> None:
        super().__init__()
        self.script: deque[Reply] = deque()
        self.respond: Callable[[str, str, bytes], Reply] | None = None

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
        if self.respond is not None:
            return self.respond(method, path, body)
        return self.script[0] if len(self.script) == 1 else self.script.popleft()
