"""Mask secrets in text before it is printed, logged, written or sent anywhere.

:func:`redact` is applied to every message of a :class:`~mistere.common.errors.MistereError`, to what a process prints and
logs (:mod:`mistere.common.processes.standard_streams`), to progress events, and to the command line in a run's record. It
masks by form and by value:

- user information and secret query parameters of URLs,
- HTTP headers that authenticate, assignments to names like ``password``, private keys, and tokens with a known prefix,
- the values of this process's secret environment variables, and those given to :func:`conceal`, wherever they appear.

A value is known to be secret by the name of its variable. Short values and plain words are masked by form only: a database
password ``mistere`` must not turn every sentence with that word into stars.
"""

from __future__ import annotations

import base64
import netrc
import os
import re
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from mistere.common.urls import HIDDEN, redact_url, secrets_of_urls

AFFECTS_RESULTS = False
"""What is masked changes no result."""

_SHORTEST, _LONGEST_WORD = 8, 20
_SECRET_NAME: Final = re.compile(
    r"SECRET|PASSWORD|PASSWD|TOKEN(?!IZER)|CREDENTIAL|ACCESS_?KEY|API_?KEY|PRIVATE_?KEY|AUTHORIZATION|COOKIE|WEBHOOK"
    r"|_HEADERS$|_(?:PASS|PWD|SAS|AUTH)$",
    re.IGNORECASE,
)
_WORDS: Final = (
    r"(?:password|passwd|pwd|(?:client|app|shared|webhook)[_-]?secret|secret(?:[_-]?access)?[_-]?key|access[_-]?key(?:[_-]?id)?|api[_-]?key|private[_-]?key"
    r"|(?:(?:auth|access|session|security|hub|bearer|refresh|api|bot|tracking|kfp|hf)_?)?token|(?<![_\w])secret)"
)
_HEADER: Final = re.compile(
    r"""(\b(?:(?:proxy-)?authorization|(?:set-)?cookie|x-[\w-]{0,40}?(?:token|key|secret|signature)[\w-]{0,40})["']?(?:\s*:\s*|=)(?:b?["'])?)"""
    r"""(?:(?:digest|aws4-hmac-sha256)\s+(?:[\w-]+=(?:\\?"[^"\n]*"|[^\s"',]+)(?:\s*,\s*)?)+|(?:(?:basic|bearer|negotiate|digest|token|aws4-hmac-sha256)\s+)?[^\s"',&]+(?:(?<=;)[ \t]+[^\s"',;&=]+=[^\s"',&]+)*)""",  # a header holds many cookies
    re.IGNORECASE,
)
_BEARER: Final = re.compile(r"\b(Bearer|Basic)\s+(?=\S*[\d=])[A-Za-z0-9._~+/=-]{8,}")
_ASSIGNMENT: Final = re.compile(
    # NAME=value, --name value, a quoted key of JSON or Python, and a line of YAML
    rf"""({_WORDS}(?:\s*=\s*(?:b?["'])?|["']\s*:\s*b?["'])|(?<![\w-])--[\w-]{{0,40}}?{_WORDS}[ ]["']?|^[ \t]*[\w.-]{{0,80}}?{_WORDS}:\s+["']?)(?=[^\s"',;&)])(?:(?<=")(?:[^"\\\n]|\\.)+|(?<=')(?:[^'\\\n]|\\.)+|[^\s"',;&)]+)""",
    re.IGNORECASE | re.MULTILINE,
)
_PRIVATE_KEY: Final = re.compile(r"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.*?(?:-----END \1-----|\Z)", re.DOTALL)
_KNOWN_PREFIX: Final = re.compile(r"\b(?:hf|ghp|gho|ghs|github_pat|glpat|xox[abp])[_-][A-Za-z0-9_-]{16,}")
_HEADERS, _NAMES = ("authorization", "cookie", "x-"), ("passw", "pwd", "secret", "token", "key")
"""Parts of a text, in lower case, without which the expressions above do not match: they are slow, and most text has none."""

_concealed: set[str] = set()
_of_environment: tuple[float, frozenset[str]] = (-1.0, frozenset())
"""When the environment was read, and the secrets in it."""
_FRESH_SECONDS: Final = 1.0


def conceal(*values: str) -> None:
    """Mask these values from now on, in this process, and read the environment again."""
    global _of_environment
    _of_environment = (-1.0, frozenset())
    for value in values:
        _concealed.update(_forms(value))


def is_secret_name(name: str) -> bool:
    """Whether an environment variable of this name holds a secret."""
    return _SECRET_NAME.search(name) is not None


def redact(text: str) -> str:
    """Mask every secret in ``text``, see the module."""
    for value in sorted(_concealed | _environment(), key=len, reverse=True):  # none is masked in parts only
        if value in text:
            text = text.replace(value, HIDDEN)
    text = redact_url(text)
    lower = text.lower()
    if "private key-----" in lower:
        text = _PRIVATE_KEY.sub(HIDDEN, text)
    if any(part in lower for part in _HEADERS):
        text = _HEADER.sub(rf"\1{HIDDEN}", text)
    if "bearer" in lower or "basic" in lower:
        text = _BEARER.sub(rf"\1 {HIDDEN}", text)
    if any(part in lower for part in _NAMES):
        text = _ASSIGNMENT.sub(rf"\1{HIDDEN}", text)
    return _KNOWN_PREFIX.sub(HIDDEN, text)


def _environment() -> frozenset[str]:
    """The secrets in the environment and in ``.netrc``; read again after a second, for reading takes longer than masking."""
    global _of_environment
    read, secrets = _of_environment
    now = time.monotonic()
    if read < 0 or now - read > _FRESH_SECONDS:
        long = ((name, value) for name, value in os.environ.items() if len(value) >= _SHORTEST)
        secrets = _of_netrc(os.environ.get("NETRC", "")).union(*(_of_variable(name, value) for name, value in long))
        _of_environment = (now, secrets)
    return secrets


@lru_cache(maxsize=1024)
def _of_variable(name: str, value: str) -> frozenset[str]:
    """The secrets in a variable of the environment: its value by its name, or the credentials of a URL in it (of a proxy)."""
    secrets = set()
    if "://" in value:
        secrets.update(secrets_of_urls(value))
    if is_secret_name(name) and not (value.startswith(("/", "~", ".")) and Path(value).expanduser().exists()):
        secrets.add(value)
        with suppress(ValueError):  # not a valid URL
            parts = urlsplit(value) if "://" in value else None
            if parts is not None and len(parts.path) > 1:  # a library may quote the path alone
                secrets.add(f"{parts.path}?{parts.query}" if parts.query else parts.path)
    return frozenset(form for secret in secrets for form in _forms(secret))


@lru_cache(maxsize=4)
def _of_netrc(path: str) -> frozenset[str]:
    """The passwords of a ``.netrc``, with which HTTP clients authenticate; ``path`` is empty for the home's."""
    try:
        hosts = netrc.netrc(path or str(Path.home() / ".netrc")).hosts.values()
    except (OSError, RuntimeError, ValueError, netrc.NetrcParseError):
        return frozenset()
    found = {form for login, _, password in hosts for form in _forms(f"{login}:{password}")}
    return frozenset(found)


def _forms(secret: str) -> set[str]:
    """What a secret looks like in text: as it is, URL-decoded, and as HTTP's basic authentication sends it.

    ``name:password`` also stands for its password alone.
    """
    name, colon, password = secret.partition(":")
    forms = {secret, unquote(secret)}
    if colon and "/" not in name:
        forms |= {password, unquote(password)}
        forms.add(base64.b64encode(unquote(secret).encode()).decode())
    return {form for form in forms if len(form) >= _SHORTEST and (len(form) >= _LONGEST_WORD or not form.isalpha())}
