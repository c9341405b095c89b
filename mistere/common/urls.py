"""URLs as they may be shown and stored: without credentials."""

from __future__ import annotations

import re

AFFECTS_RESULTS = False
"""How a URL is shown changes no result."""

_USER_INFO = re.compile(r"([A-Za-z][\w+.-]*://)[^/\s]*@")


def redact_url(text: str) -> str:
    """Remove the user information (name, password, token) from every URL in ``text``.

    Args:
        text: a URL, or a sentence that quotes URLs.
    """
    return _USER_INFO.sub(r"\1", text)
