"""Proof that S3 holds what was sent: the checksum or ETag of its answer, compared with that of the content."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

AFFECTS_RESULTS = False
"""Objects are addressed by content and verified, so how a write is verified changes no result."""

_CHUNK: Final = 1 << 20


@dataclass(frozen=True)
class Content:
    """Content to write: bytes, or a file."""

    source: bytes | Path

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size

    def chunks(self, size: int = _CHUNK) -> Iterator[bytes]:
        """The content in pieces of ``size`` bytes."""
        if isinstance(self.source, bytes):
            yield from (self.source[start : start + size] for start in range(0, len(self.source), size))
            return
        with self.source.open("rb") as file:
            while chunk := file.read(size):
                yield chunk

    def sha256(self) -> str:
        """SHA-256, hexadecimal."""
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.hexdigest()

    def is_proven(self, answer: Mapping[str, Any], part_size: int | None = None) -> bool | None:
        """Whether the answer to a write, or to a later HEAD, proves that the object has this content.

        S3 answers with the checksum that it computed (``ChecksumCRC32``), for a multipart upload of all bytes or of the parts' checksums
        (``…-N``): https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity-upload.html. The ETag is the MD5,
        for a multipart upload the MD5 of the parts' MD5s and ``-N``, but not for every encryption and store:
        https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html.

        Args:
            answer: of ``put_object`` or ``head_object``.
            part_size: bytes of a part; None if the object was written by one request.

        Returns:
            True if it does, False if a checksum differs, None if the answer has nothing to compare with.
        """
        parts = self.chunks(part_size or max(self.size, 1))
        if checksum := str(answer.get("ChecksumCRC32", "")):
            return checksum in _crc32(parts)
        etag = str(answer.get("ETag", "")).strip('"')
        return True if etag == (_md5_of_parts(parts) if "-" in etag else _md5(parts)) else None


def _crc32(parts: Iterable[bytes]) -> set[str]:
    """The forms of a CRC32: of all bytes; of the checksums of several parts, with their number or without."""
    whole, checksums = 0, b""
    for part in parts:
        whole = zlib.crc32(part, whole)
        checksums += zlib.crc32(part).to_bytes(4, "big")
    count, combined = len(checksums) // 4, _base64(zlib.crc32(checksums))
    return {_base64(whole), f"{combined}-{count}"} | ({combined} if count > 1 else set())


def _base64(crc: int) -> str:
    return base64.b64encode(crc.to_bytes(4, "big")).decode("ascii")


def _md5(parts: Iterable[bytes]) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _md5_of_parts(parts: Iterable[bytes]) -> str:
    digests = [hashlib.md5(part, usedforsecurity=False).digest() for part in parts]
    return f"{hashlib.md5(b''.join(digests), usedforsecurity=False).hexdigest()}-{len(digests)}"
