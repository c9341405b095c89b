"""The promotion history: an object per event in the store, written once and never changed."""

from __future__ import annotations

import getpass
import os
import secrets
import socket
import time
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from mistere.artifacts.object_store import ABSENT, ObjectStore

_FOLDER = "promotions"
ACTOR_VARIABLE = "MISTERE_ACTOR"


class PromotionEvent(BaseModel):
    """A move of the champion, or an attempt to move it.

    Attributes:
        at: seconds since 1970.
        action: ``deploy`` by a run, ``promote`` or ``rollback`` by a user, ``recover`` after an interrupted release.
        outcome: ``done``; ``lost`` if another process moved the champion first; ``undone`` if a part failed and everything
            was rolled back.
        before: digest of the previous champion's bundle, or ``none``.
        after: digest of the bundle that the event makes the champion.
        version: its version in the registry.
        reason: a sentence: why the champion was moved, or why the move was lost or undone.
        by: a run, or a user and a machine.
    """

    model_config = ConfigDict(extra="forbid")

    at: float
    action: Literal["deploy", "promote", "rollback", "recover"]
    outcome: Literal["done", "lost", "undone"]
    before: str
    after: str
    version: str
    reason: str
    by: str


def append(store: ObjectStore, event: PromotionEvent) -> None:
    """Add an event; existing ones are never overwritten."""
    name = f"{int(event.at * 1000):015d}-{secrets.token_hex(4)}"
    store.write(f"{_FOLDER}/{name}.json", event.model_dump_json(indent=1).encode(), expected=ABSENT)


def read_log(store: ObjectStore) -> list[PromotionEvent]:
    """Every event, oldest first; unreadable ones are skipped."""
    events = []
    for key in sorted(store.keys(_FOLDER)):
        try:
            events.append(PromotionEvent.model_validate_json(store.read(key)[0]))
        except ValidationError:
            continue
    return sorted(events, key=lambda event: event.at)


def who() -> str:
    """The value of ``MISTERE_ACTOR``, else the user and machine of this process."""
    if actor := os.environ.get(ACTOR_VARIABLE):
        return actor
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def now() -> float:
    """The time of an event."""
    return time.time()
