"""A line of the log: how a request was answered. It holds no text, recording, vector, location, header or address of a client."""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final

from pydantic import BaseModel, ConfigDict

_UUID: Final = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_HASH_DIGITS: Final = 20


def logged_id(key: bytes, identity: str) -> str:
    """The id of a request as the log has it: a UUID as it is, anything else as :func:`logged_hash`.

    Clients choose ids, and may put a name or a telephone number into them. The server's own ids are UUIDs.

    Args:
        key: of the store's log; see :data:`mistere.serving.request_log.files.HASHING_KEY`.
        identity: the id.
    """
    return identity if _UUID.fullmatch(identity) else logged_hash(key, identity)


def logged_hash(key: bytes, identity: str) -> str:
    """An id that is a client's, such as that of a dialogue, as the log has it; empty for none.

    Args:
        key: of the store's log.
        identity: the id.
    """
    if not identity:
        return ""
    digest = hmac.new(key, identity.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
    return f"hash:{digest[:_HASH_DIGITS]}"


class LoggedTurn(BaseModel):
    """A predicted turn.

    Attributes:
        dialogue: place of its dialogue in the request.
        turn: its place in the dialogue.
        label: the prediction.
        probabilities: of the labels, in their order.
        modalities: that were read, ``+``-joined, or ``none``.
    """

    dialogue: int
    turn: int
    label: str
    probabilities: list[float]
    modalities: str


class LoggedRequest(BaseModel):
    """A request.

    Attributes:
        time: when it began, ``2026-01-31T07:12:03.456Z``.
        id: of the request; see :func:`logged_id`.
        protocol: ``rest_v1``, ``rest_v2``, ``grpc`` or ``stream``.
        code: REST code or gRPC status.
        error: the sentence of a refusal, with ``…`` for what it quotes of the request; empty for an answer.
        seconds: from its begin to its response.
        phases: the time of its parts, seconds; those of a batch are the batch's.
        sizes: ``bytes`` of the body and numbers of ``dialogues``, ``utterances``, ``texts`` and ``recordings``; empty if it was refused
            before they were known.
        dialogue: hash of the client's id of the dialogue; empty for none.
        options: the flags that the request set: ``consent``, ``detail``, ``explain``, ``transcribe``, ``vectors``.
        model: name of the model.
        version: of the model, as in responses.
        bundle: digest of the bundle.
        replica: the process that answered.
        labels: names of the probabilities.
        turns: the predicted turns; none for a refusal.
    """

    model_config = ConfigDict(extra="ignore")

    time: str
    id: str
    protocol: str
    code: str
    error: str = ""
    seconds: float
    phases: dict[str, float] = {}
    sizes: dict[str, int] = {}
    dialogue: str = ""
    options: list[str] = []
    model: str
    version: str
    bundle: str
    replica: str
    labels: list[str] = []
    turns: list[LoggedTurn] = []

    @property
    def failed(self) -> bool:
        """Whether it was refused, or failed."""
        return self.code not in ("200", "OK")
