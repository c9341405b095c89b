"""The promotion history: an object per event in the store, written before the champion is moved and completed once.

An event is ``pending`` until its release has ended. A process that is killed in between leaves it pending: the champion then
says whether it was moved, because a release stamps it with the time of its event, and no other release moves the champion on
before that event is complete (:func:`mistere.registry.release.recovery.recover`).
"""

from __future__ import annotations

import getpass
import os
import socket
import time
from dataclasses import dataclass
from typing import Literal

from mistere.artifacts.manifest import canonical_digest
from mistere.artifacts.object_store import ABSENT, ConflictError, LocalStore, MissingObjectError, ObjectStore
from mistere.artifacts.sealed_record import SealedRecord
from mistere.common.names import terminal_text
from mistere.registry.release.champion import ChampionPointer, read_champion

_FOLDER = "promotions"
_LEFTOVER_SECONDS = 24 * 3600.0
ACTOR_VARIABLE = "MISTERE_ACTOR"
Outcome = Literal["pending", "done", "lost", "undone"]


class PromotionEvent(SealedRecord):
    """A move of the champion, an attempt to move it, or a person's rejection of a candidate.

    Attributes:
        at: seconds since 1970; also the time that the champion is stamped with.
        action: ``deploy`` by a run; ``promote``, ``approve``, ``rollback`` or ``reject`` by a user; ``recover`` only in logs of earlier
            versions. ``canary``: a user gave a version a share of the requests, or took it back (``undone``). All but ``reject`` and
            ``canary`` move the champion.
        outcome: ``pending`` while the release is in progress or after its process was killed; ``done``; ``lost`` if another
            process moved the champion first; ``undone`` if a part failed and everything was rolled back.
        before: digest of the previous champion's bundle, or ``none``.
        after: digest of the bundle that the event makes the champion, or rejects.
        version: its version in the registry.
        reason: a sentence: why the champion was moved, or why the move was lost or undone.
        by: a run, or a user and a machine.
    """

    at: float
    action: Literal["deploy", "promote", "approve", "rollback", "reject", "canary", "recover"]
    outcome: Outcome
    before: str
    after: str
    version: str
    reason: str
    by: str

    @property
    def decides(self) -> bool:
        """Whether the event, once it is done, says that the version is released or rejected."""
        return self.action != "canary"

    @property
    def key(self) -> str:
        """The key of the event's object, which does not depend on its outcome."""
        identity = canonical_digest(self.model_dump(mode="json", exclude={"checksum", "outcome", "reason"}))
        return f"{_key_prefix(self.at)}{identity[:16]}.json"

    def moved(self, pointer: ChampionPointer) -> bool:
        """Whether the champion is the one that this event's release has moved there."""
        return pointer.moved_by(self.after, self.at)


@dataclass(frozen=True)
class PromotionLog:
    """The history as it was read.

    Attributes:
        events: oldest first.
        damaged: locations of the events that cannot be read.
    """

    events: list[PromotionEvent]
    damaged: list[str]


def _key_prefix(at: float) -> str:
    return f"{_FOLDER}/{int(at * 1000):015d}-"


def add(store: ObjectStore, event: PromotionEvent) -> None:
    """Add an event, unless it is there already; existing ones are never overwritten."""
    try:
        store.write(event.key, event.sealed(), expected=ABSENT)
    except ConflictError:
        return


def complete(store: ObjectStore, event: PromotionEvent, outcome: Outcome, reason: str = "") -> PromotionEvent:
    """Set the outcome of a pending event; the first outcome stays.

    Args:
        store: the store.
        event: the event.
        outcome: of its release.
        reason: why it ended so; empty keeps that of the event.

    Returns:
        The event with the outcome that the log holds.
    """
    final = event.model_copy(update={"outcome": outcome, "reason": reason or event.reason})
    while True:
        version, current = ABSENT, None
        try:
            data, version = store.read(event.key)
        except MissingObjectError:
            pass
        else:
            current = PromotionEvent.unsealed(data)
            if current is None:
                return final  # damaged: it stays as it is, and read_log names it
            if current.outcome != "pending":
                return current
        try:
            store.write(event.key, final.sealed(), expected=version)
        except ConflictError:
            continue
        return final


def outcome_of(store: ObjectStore, event: PromotionEvent) -> Outcome:
    """The outcome of an event as the log holds it; ``pending`` if the log does not say."""
    try:
        current = PromotionEvent.unsealed(store.read(event.key)[0])
    except MissingObjectError:
        return "pending"
    return current.outcome if current is not None else "pending"


def complete_moved(store: ObjectStore, pointer: ChampionPointer) -> None:
    """Complete the event of the release that moved the champion there, unless it is complete."""
    if pointer.champion is None:
        return
    prefix = _key_prefix(pointer.champion.moved_at)
    for key in [key for key in store.keys(_FOLDER) if key.startswith(prefix)]:
        event = PromotionEvent.unsealed(store.read(key)[0])
        if event is not None and event.outcome == "pending" and event.moved(pointer):
            complete(store, event, "done")


def read_log(store: ObjectStore) -> PromotionLog:
    """The history. A pending event whose release has moved the champion counts as ``done``.

    Raises:
        ArtifactError: the champion's pointer is damaged.
    """
    log = _read(store)
    if all(event.outcome != "pending" for event in log.events):
        return log
    pointer = read_champion(store)
    events = [
        event.model_copy(update={"outcome": "done"}) if event.outcome == "pending" and event.moved(pointer) else event
        for event in log.events
    ]
    return PromotionLog(events, log.damaged)


def _read(store: ObjectStore) -> PromotionLog:
    events, damaged = [], []
    for key in sorted(store.keys(_FOLDER)):
        event = PromotionEvent.unsealed(store.read(key)[0])
        if event is None:
            damaged.append(store.location(key))
        else:
            events.append(event)
    return PromotionLog(sorted(events, key=lambda event: event.at), damaged)


def sweep(store: ObjectStore) -> None:
    """Delete what killed processes left of unfinished writes a day ago or earlier, in the log and the journals.

    Only a folder holds such files: a write to S3 that was interrupted leaves nothing.
    """
    if isinstance(store, LocalStore):
        for folder in (_FOLDER, "deployments"):
            store.sweep(folder, _LEFTOVER_SECONDS)


def who() -> str:
    """The value of ``MISTERE_ACTOR``, else the user and machine of this process; with ``?`` for control characters and what is no UTF-8."""
    if actor := os.environ.get(ACTOR_VARIABLE):
        return terminal_text(actor)
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = f"uid {os.getuid()}"
    return terminal_text(f"{user}@{socket.gethostname()}")


def now() -> float:
    """The time of an event."""
    return time.time()
