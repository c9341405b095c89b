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

from mistere.artifacts.object_store import ABSENT, ConflictError, ObjectStore
from mistere.common.errors import MistereError, why
from mistere.registry.release.champion import (
    CHAMPION_KEY,
    Champion,
    ChampionPointer,
    fence_champion,
    move_champion,
    read_champion,
)
from mistere.registry.release.deployment_pointer import pointer_version, previous_deployment, restore_pointer
from mistere.registry.release.journal import HeldJournal
from mistere.registry.release.promotion_log import PromotionEvent, add, complete, now, outcome_of
from mistere.registry.release.recovery import PATIENCE_SECONDS, Mirror, acquire
from mistere.serving.deployment import Deployment, RollbackError, deployment_key
from mistere.serving.kserve.lease import LeaseLostError, RenewLease

RollOut = Callable[[RenewLease], Callable[[], None]]
"""Makes a cluster serve the bundle, and calls its argument, which renews the lease, while it waits; returns the rollback."""


def release(
    store: ObjectStore,
    mirror: Mirror,
    seen: ChampionPointer,
    champion: Champion,
    deployment: Deployment,
    action: Literal["deploy", "promote", "approve", "rollback"],
    reason: str,
    by: str,
    roll_out: RollOut | None = None,
    check: Callable[[], None] | None = None,
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
        check: called once this release holds the journal; raises if what others decided meanwhile forbids it.

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
        held = acquire(store, mirror, champion, deployment, event)
    except ConflictError as error:
        add(store, event.model_copy(update={"outcome": "lost", "reason": why(error)}))
        raise
    releasing = _Releasing(held, mirror, event, champion, seen)
    try:
        releasing.move(roll_out, check)
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

    def move(self, roll_out: RollOut | None, check: Callable[[], None] | None) -> None:
        """Move everything to the new bundle."""
        deployment = self.held.journal.deployment
        add(self.store, self.event)
        if check is not None:
            check()
        current = read_champion(self.store)
        if not current.is_same(self.seen):
            raise ConflictError(
                "the champion changed after this release was decided: run again to compare with the new one."
            )
        self.seen = current  # its fence may be another
        before = pointer_version(self.store, deployment.service)
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
                self.held.update(state="done", share=0)
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
            self._undo_roll_out(self.undo_roll_out)
        restore_pointer(self.held)
        complete(self.store, self.event, "lost" if isinstance(error, ConflictError) else "undone", why(error))
        incomplete = isinstance(
            error, RollbackError
        )  # the journal stays open, so that recover() completes the rollback
        if incomplete:
            self.held.update(since=0.0)
        else:
            self.held.close_undone()

    def _undo_roll_out(self, undo: Callable[[], None]) -> None:
        try:
            undo()
        except BaseException:  # a second Ctrl-C, too: whoever comes next need not wait for the end of the lease
            with suppress(MistereError):
                self.held.update(since=0.0)
            raise

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
        deadline = time.monotonic() + PATIENCE_SECONDS
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
                journal = self.held.journal
                if self.deployment_version is not None:
                    key, before = deployment_key(journal.deployment.service), previous_deployment(self.store, journal)
                    self.store.write(key, before.recorded(self.store), expected=self.deployment_version)
        return False
