"""URLs with credentials, on their way to the processes that use them.

A URL that a user gives with a password or token is stored, logged and passed on without it; the whole URL stays in an
environment variable, which child processes inherit and no record holds.
"""

from __future__ import annotations

import json
import os
from typing import Final

from mistere.common.parsing.documents import load_json
from mistere.common.secrets.redaction import conceal
from mistere.common.urls import redact_url, secrets_of_urls

AFFECTS_RESULTS = False
"""How a process authenticates changes no result."""

CREDENTIALS_VARIABLE: Final = "MISTERE_CREDENTIALS"
"""Environment variable: JSON with the whole URL by the URL without credentials; set by ``mistere`` for its own processes."""


def without_credentials(url: str) -> str:
    """The URL without credentials; they are kept in the environment of this process and its children."""
    shown = redact_url(url)
    if shown != url:
        conceal(*secrets_of_urls(url))
        os.environ[CREDENTIALS_VARIABLE] = json.dumps({**_kept(), shown: url}, ensure_ascii=False)
    return shown


def with_credentials(url: str) -> str:
    """The URL with the credentials that :func:`without_credentials` removed; any other URL as it is."""
    return _kept().get(url, url)


def _kept() -> dict[str, str]:
    try:
        kept = load_json(os.environ.get(CREDENTIALS_VARIABLE, "{}"))
    except ValueError:
        return {}
    return {name: value for name, value in kept.items() if isinstance(value, str)} if isinstance(kept, dict) else {}
