"""Proof that S3 holds what was sent: the checksum or ETag of its answer, compared with that of the content."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Iterator, Mapping
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
        crc, md5 = 0, hashlib.md5(usedforsecurity=False)
        crcs, digests = b"", b""
        parts = 0
        for part in self.chunks(part_size or max(self.size, 1)):
            crc = zlib.crc32(part, crc)
            crcs += zlib.crc32(part).to_bytes(4, "big")
            md5.update(part)
            digests += hashlib.md5(part, usedforsecurity=False).digest()
            parts += 1
        etag = str(answer.get("ETag", "")).strip('"')
        checksum = str(answer.get("ChecksumCRC32", ""))
        whole = base64.b64encode(crc.to_bytes(4, "big")).decode("ascii")
        combined = base64.b64encode(zlib.crc32(crcs).to_bytes(4, "big")).decode("ascii")
        if checksum:
            return checksum in {whole, combined if parts > 1 else whole, f"{combined}-{parts}"}
        multipart = f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{parts}"
        return True if etag in {md5.hexdigest(), multipart} else None
