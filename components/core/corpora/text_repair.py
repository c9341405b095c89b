"""Text whose encoding was mistaken on its way: found out, and undone where it can be."""

from __future__ import annotations

import re

_C1_CONTROLS = re.compile("[\x80-\x9f]")
_DOUBLE_ENCODED = re.compile("[\u00c2\u00c3\u00e2][\u0080-\u00bf\u0152-\u2122]{1,2}")


def looks_damaged(text: str) -> bool:
    """Whether a text shows it."""
    return "\ufffd" in text or bool(_C1_CONTROLS.search(text) or _DOUBLE_ENCODED.search(text))
