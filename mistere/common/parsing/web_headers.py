"""The headers ``Host`` and ``Origin`` of a browser's request, which say which page sends it to which server."""

from __future__ import annotations

import ipaddress
from typing import Final
from urllib.parse import urlsplit

AFFECTS_RESULTS = False
"""Who may send a request changes no result."""

PageOrigin = tuple[str, str, int]
"""Scheme, host and port of a page, in lower case."""

_PORTS: Final = {"http": 80, "https": 443}


def parse_origin(url: str) -> PageOrigin | None:
    """Scheme, host and port of a URL; None for ``null`` and what is no address of a page."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None
    if port is None or parts.scheme not in _PORTS or not parts.hostname or parts.username is not None:
        return None
    return parts.scheme, parts.hostname, port


def host_name(host: str) -> str:
    """The name or address in a ``Host`` header, in lower case and without its port; empty if there is none."""
    try:
        return urlsplit(f"//{host.strip()}").hostname or ""
    except ValueError:
        return ""


def is_address(name: str) -> bool:
    """Whether a host is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(name: str) -> bool:
    """Whether a host is this machine, as only this machine reaches it."""
    return name == "localhost" or (is_address(name) and ipaddress.ip_address(name).is_loopback)
