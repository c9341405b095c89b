"""Server-side encryption of the objects that a store writes.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/serv-side-encryption.html
"""

from __future__ import annotations

import re
from typing import Final

from mistere.common.errors import UsageError
from mistere.common.names import shown

AFFECTS_RESULTS = False
"""How objects are encrypted at rest changes no result."""

SSE_S3: Final = "AES256"
SSE_KMS: Final = "aws:kms"
_KEY: Final = re.compile(r"[A-Za-z0-9:/_-]{1,2048}")


def encryption_arguments(encryption: str) -> dict[str, str]:
    """The arguments of a put for a kind of encryption.

    Args:
        encryption: ``AES256`` (keys of S3), ``aws:kms`` (the account's default key), ``aws:kms:KEY`` (a key's id, alias or ARN), or empty for
            the bucket's default.

    Raises:
        UsageError: it is none of these.
    """
    if not encryption:
        return {}
    if encryption in (SSE_S3, SSE_KMS):
        return {"ServerSideEncryption": encryption}
    key = encryption.removeprefix(f"{SSE_KMS}:")
    if key == encryption or not _KEY.fullmatch(key):
        raise UsageError(
            f"the encryption {shown(encryption)} is unknown: choose {SSE_S3}, {SSE_KMS}, or {SSE_KMS}:KEY with the id, alias or ARN of a key."
        )
    return {"ServerSideEncryption": SSE_KMS, "SSEKMSKeyId": key}
