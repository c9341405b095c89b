"""Decompress request bodies (``Content-Encoding``), within the limit on a body."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from mistere.predictor.errors import decoded_body_too_large, invalid, unsupported_coding

_GZIP, _ZLIB, _RAW_DEFLATE = zlib.MAX_WBITS + 16, zlib.MAX_WBITS, -zlib.MAX_WBITS


def content_coding(headers: Iterable[str]) -> str | None:
    """The coding of a body: ``gzip`` or ``deflate``; None if it is not compressed.

    Args:
        headers: the values of all headers ``Content-Encoding``.

    Raises:
        RequestError: another coding, or more than one.
    """
    codings = [coding.strip().lower() for coding in ",".join(headers).split(",")]
    codings = [coding.removeprefix("x-") for coding in codings if coding not in ("", "identity")]
    if not codings:
        return None
    if codings not in (["gzip"], ["deflate"]):
        raise unsupported_coding()
    return codings[0]


def decompress(body: bytes, coding: str, limit: int) -> bytes:
    """Decompress a body; at most ``limit`` bytes and one more are ever made of it.

    Args:
        body: the compressed body.
        coding: result of :func:`content_coding`.
        limit: the most bytes of the result.

    Raises:
        RequestError: the body is not valid in this coding, is incomplete, or exceeds the limit.
    """
    if coding == "gzip":
        window = _GZIP
    else:  # zlib's format by RFC 9110; some clients send the bare format of RFC 1951
        has_header = len(body) > 1 and body[0] & 0x0F == zlib.DEFLATED and int.from_bytes(body[:2]) % 31 == 0
        window = _ZLIB if has_header else _RAW_DEFLATE
    decoder = zlib.decompressobj(window)
    try:
        content = decoder.decompress(body, limit + 1)
    except zlib.error as error:
        raise invalid(f"The body is not valid {coding}.") from error
    if len(content) > limit:
        raise decoded_body_too_large(limit)
    if not decoder.eof or decoder.unused_data:  # a further member could be one of hundreds of thousands
        raise invalid(f"The body is not one whole {coding} stream.")
    return content
