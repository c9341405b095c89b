"""The token for Kubeflow Pipelines: its source, its claims, and why the server may refuse it.

A JSON Web Token is only decoded, never verified: its expiry and its audience distinguish the reasons for a 401, which the
server's answer does not.
"""

from __future__ import annotations

import base64
import binascii
import os
import time
from dataclasses import dataclass, field
from typing import Any, Final

from mistere.common.parsing.documents import load_json
from pipelines.kubeflow.connection.access import TOKEN_VARIABLE, service_account_token

AUDIENCE: Final = "pipelines.kubeflow.org"
"""The audience that Kubeflow Pipelines requires (its ``TOKEN_REVIEW_AUDIENCE``)."""


@dataclass(frozen=True)
class Token:
    """A token and the claims that it contains, if it is a JSON Web Token.

    Attributes:
        value: the token; never shown.
        source: the variable or file that it comes from.
        expires: seconds since 1970; None without this claim.
        audiences: the services that accept it; empty without this claim.
    """

    value: str = field(repr=False)
    source: str
    expires: float | None = None
    audiences: tuple[str, ...] = ()

    @classmethod
    def of(cls, value: str, source: str) -> Token:
        """Decode a token."""
        claims = _claims(value)
        expires, audience = claims.get("exp"), claims.get("aud")
        audiences = audience if isinstance(audience, list) else [audience] if audience else []
        seconds = float(expires) if isinstance(expires, int | float) and not isinstance(expires, bool) else None
        return cls(value, source, seconds, tuple(map(str, audiences)))


def current_token() -> Token | None:
    """The token that the client sends: ``KFP_TOKEN``, else the pod's own; None without one."""
    if value := os.environ.get(TOKEN_VARIABLE, ""):
        return Token.of(value, TOKEN_VARIABLE)
    file = service_account_token()
    if file is None:
        return None
    try:
        return Token.of(file.read_text(encoding="utf-8").strip(), str(file))
    except (OSError, UnicodeDecodeError):
        return None


def explain_refusal(server: str, token: Token | None, namespace: str) -> tuple[str, bool]:
    """Explain a 401.

    While the Kubernetes API, which reviews tokens, is away, Kubeflow Pipelines refuses every token.

    Args:
        server: the server, as the subject of a sentence.
        token: the token that it refused.
        namespace: of the runs.

    Returns:
        A sentence, and whether the refusal may be temporary: the token is valid by its own claims.
    """
    if token is None:
        return f"{server} requires a token (401): put one into {TOKEN_VARIABLE}.", False
    refusal = f"{server} does not accept the token in {token.source} (401)"
    if token.expires is not None and token.expires <= time.time():
        return f"{refusal}: it expired on {_shown(token.expires)}; get a new one.", False
    if token.audiences and AUDIENCE not in token.audiences:
        return (
            f"{refusal}: it is for the audience {', '.join(token.audiences)!r} and not for {AUDIENCE!r}; create one with `kubectl "
            f"create token mistere-submitter --namespace {namespace} --audience {AUDIENCE}`."
        ), False
    if token.expires is None:
        return f"{refusal}: it may have expired; get a new one.", False
    return (
        f"{refusal}, which is valid until {_shown(token.expires)}: the Kubernetes API, which reviews it, may be away; try again later, "
        "or get a new one if the account was deleted or belongs to another cluster."
    ), True


def _claims(token: str) -> dict[str, Any]:
    try:
        part = token.split(".")[1]
        claims = load_json(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (IndexError, ValueError, binascii.Error):
        return {}
    return claims if isinstance(claims, dict) else {}


def _shown(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "an unknown date"
