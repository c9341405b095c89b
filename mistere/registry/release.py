"""Move the champion, its deployment and the registry's aliases together, atomically.

The order is: acquire the service's journal (a conditional put, so that only one release is in progress), add a pending event to
the promotion log, roll the bundle out on the cluster, point the deployment to the new bundle, move the champion (a conditional
put against the champion that the decision was based on), update MLflow's aliases, complete the event, close the journal. A
failure rolls everything back. A killed process leaves its journal open; the next process rolls the release forward if the
champion had moved, and back if not. A process that outlives its lease leaves the outcome to the one that took the journal over.
Several services share the champion: it is moved on only after the release that moved it there is finished.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from mistere.artifacts.object_store import ABSENT, ConflictError, MissingObjectError, ObjectStore
from mistere.common.errors import ArtifactError, MistereError
from mistere.registry.champion import (
    CHAMPION_KEY,
    Champion,
    ChampionPointer,
    fence_champion,
    move_champion,
    read_champion,
    settled_champion,
)
from mistere.registry.journal import (
    LEASE_SECONDS,
    RENEW_SECONDS,
    HeldJournal,
    Journal,
    LeaseLostError,
    read_journal,
    services,
    this_process,
    write_journal,
)
from mistere.registry.promotion_log import (
    PromotionEvent,
    add,
    complete,
    complete_moved,
    now,
    outcome_of,
    read_log,
    sweep,
    who,
)
from mistere.serving.deployment import Deployment, RollbackError, deployment_key

Mirror = Callable[[Champion], None]
"""Points the registry's aliases to a champion and its predecessor."""
RollOut = Callable[[Callable[[], None]], Callable[[], None]]
"""Makes a cluster serve the bundle, and calls its argument, which renews the lease, while it waits; returns the rollback."""

_PATIENCE_SECONDS = 10.0


def release(
    store: ObjectStore,
    mirror: Mirror,
    seen: ChampionPointer,
    champion: Champion,
    deployment: Deployment,
    action: Literal["deploy", "promote", "rollback"],
    reason: str,
    by: str,
    roll_out: RollOut | None = None,
) -> None:
    """Make a bundle the champion and deploy it.

    Args:
        store: the object store.
        mirror: updates the registry's aliases.
        seen: the champion that the decision was based on.
        champion: the new one.
        deployment: the new pointer of the service.
        action: for the log.
        reason: for the log; a release that does not succeed is logged with its error instead.
        by: for the log.
        roll_out: makes a cluster serve the bundle; None if the deployment is only a pointer in the store.

    Raises:
        ConflictError: another process moved the champion first, or took this release over and rolled it back.
        MistereError: a part failed, and everything was rolled back, or the message says that the next process does so.
    """
    event = PromotionEvent(
        at=now(),
        action=action,
        outcome="pending",
        before=seen.digest,
        after=champion.bundle_digest,
        version=champion.model_version,
        reason=reason,
        by=by,
    )
    champion = _succeeding(seen.champion, champion.model_copy(update={"moved_at": event.at}))
    try:
        held = _acquire(store, mirror, champion, deployment, event)
    except ConflictError as error:
        add(store, event.model_copy(update={"outcome": "lost", "reason": _why(error)}))
        raise
    releasing = _Releasing(held, mirror, event, champion, seen)
    try:
        releasing.move(roll_out)
    except BaseException as error:
        if not releasing.end(error):
            raise
    else:
        releasing.close()


def _succeeding(before: Champion | None, champion: Champion) -> Champion:
    """The new champion with the one that a rollback restores."""
    if before is None:
        return champion
    same = before.bundle_digest == champion.bundle_digest
    return champion.model_copy(update={"previous": before.previous if same else before.as_predecessor()})


@dataclass
class _Releasing:
    """A release whose journal this process holds."""

    held: HeldJournal
    mirror: Mirror
    event: PromotionEvent
    champion: Champion
    seen: ChampionPointer
    undo_roll_out: Callable[[], None] | None = None
    deployment_version: str | None = None

    @property
    def store(self) -> ObjectStore:
        return self.held.store

    def move(self, roll_out: RollOut | None) -> None:
        """Move everything to the new bundle."""
        deployment = self.held.journal.deployment
        add(self.store, self.event)
        current = read_champion(self.store)
        if not current.is_same(self.seen):
            raise ConflictError(
                "the champion changed after this release was decided: run again to compare with the new one."
            )
        self.seen = current  # its fence may be another
        before = _version_of(self.store, deployment_key(deployment.service))
        self.undo_roll_out = roll_out(self.held.renew_lease) if roll_out else None
        self.held.update(state="deployed")
        key, pointer = deployment_key(deployment.service), deployment.recorded(self.store)
        self.deployment_version = self.store.write(key, pointer, expected=before)
        move_champion(self.store, self.seen, self.champion)
        self.held.update()  # raises if the store was so slow that another process rolled this release back before the move
        self.mirror(self.champion)
        self.held.update()

    def close(self) -> None:
        """Record that everything has moved."""
        try:
            complete(self.store, self.event, "done")
            with suppress(LeaseLostError):  # the process that took over finds everything moved as well
                self.held.update(state="done")
        except MistereError as error:
            raise MistereError(
                f"version {self.champion.model_version} is the champion and deployed, but its release could not be recorded as "
                f"finished: {error} The next run or release records it."
            ) from error

    def end(self, error: BaseException) -> bool:
        """Roll back after an error, unless another process has taken over.

        Returns:
            Whether another process has completed the release, so that the error does not matter any more.

        Raises:
            LeaseLostError: another process has taken over and has rolled back, or has not finished yet.
            MistereError: nothing could be rolled back either; the next process does it.
        """
        try:
            self._roll_back(error)
        except LeaseLostError as lost:
            if not self._completed_elsewhere():
                raise lost from error
            return isinstance(error, Exception)
        except MistereError as second:
            if isinstance(error, MistereError):
                raise MistereError(
                    f"{error} The release could not be rolled back yet either ({str(second).rstrip('.')}): the next run or release "
                    "rolls it back, or completes it if the champion has moved."
                ) from error
        return False

    def _roll_back(self, error: BaseException) -> None:
        self.held.update()
        pointer = read_champion(self.store)
        if self.event.moved(pointer):
            self._move_back(pointer)
        if self.undo_roll_out is not None:
            self.undo_roll_out()
        _restore_deployment(self.store, self.held.journal)
        complete(self.store, self.event, "lost" if isinstance(error, ConflictError) else "undone", _why(error))
        incomplete = isinstance(
            error, RollbackError
        )  # the journal stays open, so that recover() completes the rollback
        self.held.update(**{"since": 0.0} if incomplete else {"state": "done"})

    def _move_back(self, pointer: ChampionPointer) -> None:
        """Undo the champion's move, unless another process moves it meanwhile."""
        if self.seen.version == ABSENT:
            self.store.delete_object(CHAMPION_KEY)
            return
        if self.seen.champion is None:
            fence_champion(self.store, ChampionPointer(None, pointer.version))
            return
        move_champion(self.store, pointer, self.seen.champion)
        with suppress(MistereError):
            self.mirror(self.seen.champion)

    def _completed_elsewhere(self) -> bool:
        """Whether the process that took the journal over has completed the release and its champion is still there.

        If it has rolled back instead, changes of this process that reached the store later are undone.
        """
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (outcome := outcome_of(self.store, self.event)) == "pending" and time.monotonic() < deadline:
            time.sleep(0.2)
        pointer = read_champion(self.store)
        moved = self.event.moved(pointer)
        if outcome == "done":
            if not moved and pointer.champion is not None:
                self.mirror(
                    pointer.champion
                )  # a later release has moved on, and a late call may have reset its aliases
            return moved
        if outcome != "pending":
            with suppress(ConflictError):
                if moved:
                    self._move_back(pointer)
                key = deployment_key(self.held.journal.deployment.service)
                if self.deployment_version == _version_of(self.store, key):
                    _restore_deployment(self.store, self.held.journal, self.deployment_version)
        return False


def _why(error: BaseException) -> str:
    """Why a release was not completed, as a sentence for the log."""
    if isinstance(error, MistereError):
        sentence = str(error)
        return sentence[:1].upper() + sentence[1:]
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return "The process was stopped."
    first = (str(error).splitlines() or [""])[0]
    return f"An unexpected error ({type(error).__name__}{f': {first}' if first else ''})."


def recover_patiently(store: ObjectStore, mirror: Mirror, service: str) -> str:
    """Like :func:`recover`, but wait for the end of a lease: a restarted pod cannot see that its predecessor is gone."""
    deadline = time.monotonic() + LEASE_SECONDS + RENEW_SECONDS
    while True:
        try:
            return recover(store, mirror, service)
        except ConflictError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1.0)


def recover(store: ObjectStore, mirror: Mirror, service: str) -> str:
    """Complete or roll back the release of a killed process; return a sentence on it, empty if there was none.

    The release that moved the champion there is completed as well if it is another service's: once the champion has moved on,
    nothing would say that this release had moved it.

    Raises:
        ConflictError: the release is still in progress.
        ArtifactError: the journal is damaged.
    """
    pointer = read_champion(store)  # before the journals, so that the journal of the release that moved it is found
    sentences = [_recover(store, mirror, name) for name in (service, *_other_release(store, pointer, service))]
    complete_moved(store, pointer)  # where a journal was moved away
    return " ".join(filter(None, sentences))


def _other_release(store: ObjectStore, pointer: ChampionPointer, service: str) -> list[str]:
    """The other service whose unfinished release moved the champion there, if there is one."""
    for name in services(store):
        with suppress(ArtifactError):  # a damaged journal stops the releases of its own service only
            record = read_journal(store, name) if name != service else None
            if record is not None and record[0].state != "done" and record[0].moved(pointer):
                return [name]
    return []


def _recover(store: ObjectStore, mirror: Mirror, service: str) -> str:
    record = read_journal(store, service)
    if record is None or record[0].state == "done":
        return ""
    journal, version = record
    if journal.alive:
        raise ConflictError(
            f"another release of {service} is in progress (on {journal.host}): wait for it and run again."
        )
    held = HeldJournal(store, journal, version)
    held.update(
        **this_process()
    )  # before the champion is read, so that the earlier holder sees that it lost the journal
    pointer = settled_champion(store, journal.moved)
    finished = journal.state == "deployed" and journal.moved(pointer)
    if finished and pointer.champion is not None:
        store.write(deployment_key(service), journal.deployment.recorded(store))
        mirror(pointer.champion)
        summary = "A release that was interrupted after it had moved the champion was completed."
    else:
        if journal.deployment.mode != "local":
            from mistere.serving.kserve.cluster_release import undo_interrupted

            before = journal.deployment_before
            undo_interrupted(journal.deployment, Deployment.parse(store, before) if before else None)
            held.update()
        _restore_deployment(store, journal)
        if pointer.champion is not None:
            mirror(pointer.champion)
        summary = "A release that was interrupted before it had moved the champion was rolled back."
    event = journal.event or PromotionEvent(
        at=now(),
        action="recover",
        outcome="pending",
        before=pointer.digest,
        after=journal.champion.bundle_digest,
        version=journal.champion.model_version,
        reason="",
        by=who(),
    )
    reason = (
        f"{event.reason} The process was interrupted, and the next one completed the release." if finished else summary
    )
    complete(store, event, "done" if finished else "undone", reason.strip())
    held.update(state="done")
    return summary


def open_release(store: ObjectStore, run_id: str) -> str:
    """The service whose release by a run is unfinished; empty if there is none.

    Raises:
        ArtifactError: a journal is damaged.
    """
    for service in services(store):
        record = read_journal(store, service)
        if record is not None and record[0].state != "done" and record[0].champion.run_id == run_id:
            return service
    return ""


def is_released(store: ObjectStore, deployment: Deployment) -> bool:
    """Whether the release of this bundle is complete; an unreadable record counts as incomplete."""
    try:
        record = read_journal(store, deployment.service)
        complete = record is not None and record[0].state == "done" and record[0].deployment == deployment
        return complete and Deployment.parse(store, store.read(deployment_key(deployment.service))[0]) == deployment
    except (MistereError, ValueError):
        return False


def _acquire(
    store: ObjectStore, mirror: Mirror, champion: Champion, deployment: Deployment, event: PromotionEvent
) -> HeldJournal:
    """Acquire the service's journal; wait briefly for a release in progress."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            recover(store, mirror, deployment.service)
            last = read_journal(store, deployment.service)
            if last is None:
                _complete_abandoned(store)
            key = deployment_key(deployment.service)
            journal = Journal(
                state="pending",
                deployment_before=store.read(key)[0].decode() if store.exists(key) else "",
                deployment=deployment,
                champion=champion,
                event=event,
                **this_process(),
            )
            held = HeldJournal(store, journal, write_journal(store, journal, last[1] if last else ABSENT))
        except ConflictError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            sweep(store)
            return held


def _complete_abandoned(store: ObjectStore) -> None:
    """Complete the pending events that no journal holds: the journal was moved away, and the release did not move the champion."""
    pending = [event for event in read_log(store).events if event.outcome == "pending"]
    try:  # after the events: a release writes its journal first
        records = [read_journal(store, service) for service in services(store)]
    except ArtifactError:
        return  # a damaged journal may hold one
    held = {record[0].event.key for record in records if record is not None and record[0].event is not None}
    for event in pending:
        if event.key not in held:
            complete(store, event, "undone", "Its release ended without a record.")


def _version_of(store: ObjectStore, key: str) -> str:
    try:
        return store.read(key)[1]
    except MissingObjectError:
        return ABSENT


def _restore_deployment(store: ObjectStore, journal: Journal, expected: str | None = None) -> None:
    key = deployment_key(journal.deployment.service)
    if journal.deployment_before:
        store.write(key, journal.deployment_before.encode(), expected=expected)
    else:
        store.delete_object(key)
