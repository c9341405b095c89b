"""URLs as they may be shown and stored: without credentials."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

AFFECTS_RESULTS = False
"""How a URL is shown changes no result."""

_USER_INFO = re.compile(r"([A-Za-z][\w+.-]*://)[^/\s]*@")


def redact_url(text: str) -> str:
    """Remove the user information (name, password, token) from every URL in ``text``.

    Args:
        text: a URL, or a sentence that quotes URLs.
    """
    return _USER_INFO.sub(r"\1", text)


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
