"""What happened to the champion, and why: one object an event in the store, written once and never changed."""

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
    """One event.

    Attributes:
        at: seconds since 1970.
        action: ``deploy`` by a run, ``promote`` or ``rollback`` by hand, ``recover`` after an interrupted one.
        outcome: ``done``; ``lost`` where somebody else moved the champion meanwhile; ``undone`` where a part of it failed and
            everything was put back.
        before: the champion's bundle before, or ``none``.
        after: the bundle that was to be champion.
        version: its version in the registry.
        reason: in words.
        by: a run, or a person and a machine.
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
    """Add an event; nothing is ever overwritten."""
    name = f"{int(event.at * 1000):015d}-{secrets.token_hex(4)}"
    store.write(f"{_FOLDER}/{name}.json", event.model_dump_json(indent=1).encode(), expected=ABSENT)


def read_log(store: ObjectStore) -> list[PromotionEvent]:
    """Every event, oldest first; one that cannot be read is left out."""
    events = []
    for key in sorted(store.keys(_FOLDER)):
        try:
            events.append(PromotionEvent.model_validate_json(store.read(key)[0]))
        except ValidationError:
            continue
    return sorted(events, key=lambda event: event.at)


def who() -> str:
    """The person and machine behind this process, or what ``MISTERE_ACTOR`` says."""
    if named := os.environ.get(ACTOR_VARIABLE):
        return named
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def now() -> float:
    """The time of an event."""
    return time.time()
