"""URLs as they may be shown and stored: without credentials."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

AFFECTS_RESULTS = False
"""How a URL is shown changes no result."""

HIDDEN: Final = "***"
"""Stands for a secret."""

_USER_INFO: Final = re.compile(
    r"([\w+.-]://)"  # the scheme's last character only: a long word is then read once
    # The second form is a password with an unencoded slash, which SQLAlchemy accepts; a port with a path after it is none.
    r"""(?:[^/\s"<>]*|[^\s/@:\[]{0,200}:(?!\d{1,5}(?:/|$))[^\s@"'<>]{0,500})@"""
)
_SECRET_PARAMETER: Final = re.compile(
    r"""([?&;#](?:[^=\s&?;#"'<>]{0,60}[-_.])?"""
    r"(?:\w{0,30}token|password|passwd|pwd|secret|\w{0,30}signature|sig|\w{0,30}credential|api[_-]?key|\w{0,30}access[_-]?key(?:[_-]?id)?|key|auth|authorization)"
    r"""=)[^&;\s#"'<>]+""",
    re.IGNORECASE,
)


def redact_url(text: str) -> str:
    """Remove the user information (name, password, token) from every URL in ``text``, and mask secret query parameters.

    Presigned URLs are among them: their signature, credential and security token are query parameters.

    Args:
        text: a URL, or a sentence that quotes URLs.
    """
    if "://" in text:
        text = _USER_INFO.sub(r"\1", text)
    if "=" in text and any(mark in text for mark in "?&;#"):
        text = _SECRET_PARAMETER.sub(rf"\1{HIDDEN}", text)
    return text


def has_credentials(url: str) -> bool:
    """Whether a URL holds user information or a secret query parameter."""
    return redact_url(url) != url


def secrets_of_urls(text: str) -> list[str]:
    """The user information and the secret query parameters of every URL in ``text``."""
    return [
        *(match[0].removeprefix(match[1]).removesuffix("@") for match in _USER_INFO.finditer(text)),
        *(match[0].removeprefix(match[1]) for match in _SECRET_PARAMETER.finditer(text)),
    ]


def endpoint_of(url: str) -> str:
    """Scheme, host, port and path of a URL: no user information, query or fragment."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def server_of(url: str) -> str:
    """Scheme, host and port of a URL.

    Raises:
        ValueError: the port is not a number from 0 to 65535.
    """
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname or ''}{port}"
