"""Move the champion, its deployment and the registry's aliases together, atomically.

The order is: acquire the service's journal (a conditional put, so that only one release is in progress), roll the bundle out on
the cluster, point the deployment to the new bundle, move the champion (a conditional put against the champion that the decision
was based on), update MLflow's aliases, close the journal. A failure rolls everything back. A killed process leaves its journal
open; the next process rolls the release forward if the champion had moved, and back if not.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from mistere.artifacts.object_store import ABSENT, ConflictError, MissingObjectError, ObjectStore
from mistere.common.errors import MistereError
from mistere.registry.champion import CHAMPION_KEY, Champion, ChampionPointer, move_champion, read_champion
from mistere.registry.promotion_log import PromotionEvent, append, now
from mistere.serving.deployment import Deployment, RollbackError, deployment_key, journal_key

Mirror = Callable[[Champion], None]
"""Points the registry's aliases to a champion and its predecessor."""
RollOut = Callable[[Callable[[], None]], Callable[[], None]]
"""Makes a cluster serve the bundle, and calls its argument, which renews the lease, while it waits; returns the rollback."""

_LEASE_SECONDS = 180.0  # the moves take seconds; a roll-out renews the lease
_RENEW_SECONDS = 30.0
_PATIENCE_SECONDS = 10.0


class Journal(BaseModel):
    """The release in progress, or the last one.

    Attributes:
        state: ``pending``: the roll-out is in progress; ``deployed``: the bundle is deployed and tested; ``done``: finished.
        host: of the process that holds the journal.
        process: its process id.
        since: when it acquired the journal or renewed the lease, in seconds since 1970.
        deployment_before: the previous deployment pointer as JSON; empty if there was none.
        deployment: the new deployment pointer.
        champion: the new champion.
    """

    model_config = ConfigDict(extra="forbid")

    state: Literal["pending", "deployed", "done"]
    host: str
    process: int
    since: float
    deployment_before: str
    deployment: Deployment
    champion: Champion


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
        ConflictError: another process moved the champion first; nothing was changed.
        MistereError: a part failed, and everything was rolled back.
    """
    event = PromotionEvent(
        at=now(),
        action=action,
        outcome="done",
        before=seen.digest,
        after=champion.bundle_digest,
        version=champion.model_version,
        reason=reason,
        by=by,
    )
    before = seen.champion
    if before is not None and before.bundle_digest != champion.bundle_digest:
        champion = champion.model_copy(update={"previous": before.as_predecessor()})
    elif before is not None:
        champion = champion.model_copy(update={"previous": before.previous})
    try:
        acquired = _acquire(store, mirror, champion, deployment)
    except ConflictError as error:
        append(store, event.model_copy(update={"outcome": "lost", "reason": _why(error)}))
        raise
    moved, undo = False, None
    try:
        if read_champion(store).version != seen.version:
            raise ConflictError(
                "the champion changed after this release was decided: run again to compare with the new one."
            )
        undo = roll_out(acquired.renew_lease) if roll_out else None
        acquired.update(state="deployed")
        store.write(deployment_key(deployment.service), deployment.recorded(store))
        move_champion(store, seen, champion)
        moved = True
        mirror(champion)
    except BaseException as error:
        with suppress(MistereError):  # the journal stays open, so recover() completes a failed rollback
            acquired.update(since=time.time())  # raises if another process took over the journal and rolled back itself
            if moved:
                _move_back(store, mirror, champion, before)
            if undo is not None:
                undo()
            _restore_deployment(store, acquired.journal)
            incomplete = isinstance(error, RollbackError)
            acquired.update(**{"since": 0.0} if incomplete else {"state": "done"})
        lost = isinstance(error, ConflictError)
        append(store, event.model_copy(update={"outcome": "lost" if lost else "undone", "reason": _why(error)}))
        raise
    acquired.update(state="done")
    append(store, event)


def _why(error: BaseException) -> str:
    """Why a release was not completed, as a sentence for the log."""
    if isinstance(error, MistereError):
        sentence = str(error)
        return sentence[:1].upper() + sentence[1:]
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return "The process was stopped."
    first = (str(error).splitlines() or [""])[0]
    return f"An unexpected error ({type(error).__name__}{f': {first}' if first else ''})."


@dataclass
class _Held:
    """A journal that this process holds."""

    store: ObjectStore
    journal: Journal
    version: str

    def update(self, **fields: Any) -> None:
        """Write changed fields.

        Raises:
            ConflictError: another process took over the journal.
        """
        self.journal = self.journal.model_copy(update=fields)
        self.version = _write(self.store, self.journal, self.version)

    def renew_lease(self) -> None:
        """Renew the lease if it is older than half a minute."""
        if time.time() - self.journal.since > _RENEW_SECONDS:
            self.update(since=time.time())


def recover_patiently(store: ObjectStore, mirror: Mirror, service: str) -> str:
    """Like :func:`recover`, but wait for the end of a lease: a restarted pod cannot see that its predecessor is gone."""
    deadline = time.monotonic() + _LEASE_SECONDS + _RENEW_SECONDS
    while True:
        try:
            return recover(store, mirror, service)
        except ConflictError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1.0)


def recover(store: ObjectStore, mirror: Mirror, service: str) -> str:
    """Complete or roll back the release of a killed process; return a sentence on it, empty if there was none.

    Raises:
        ConflictError: the release is still in progress.
    """
    record = _read(store, service)
    if record is None or record[0].state == "done":
        return ""
    journal, version = record
    if _alive(journal):
        raise ConflictError(
            f"another release of {service} is in progress (on {journal.host}): wait for it and run again."
        )
    pointer = read_champion(store)
    version = _write(store, journal.model_copy(update={"since": time.time(), **_this_process()}), version)
    moved = journal.state == "deployed" and pointer.digest == journal.champion.bundle_digest
    finished = moved and pointer.champion is not None
    if finished and pointer.champion is not None:
        store.write(deployment_key(service), journal.deployment.recorded(store))
        mirror(pointer.champion)
        summary = "A release that was interrupted after it had moved the champion was completed."
    else:
        if journal.deployment.mode != "local":
            from mistere.serving.kserve.cluster_release import undo_interrupted

            before = journal.deployment_before
            undo_interrupted(journal.deployment, Deployment.parse(store, before) if before else None)
        _restore_deployment(store, journal)
        if pointer.champion is not None:
            mirror(pointer.champion)
        summary = "A release that was interrupted before it had moved the champion was rolled back."
    _write(store, journal.model_copy(update={"state": "done"}), version)
    append(
        store,
        PromotionEvent(
            at=now(),
            action="recover",
            outcome="done" if finished else "undone",
            before=pointer.digest,
            after=journal.champion.bundle_digest,
            version=journal.champion.model_version,
            reason=summary,
            by=f"{socket.gethostname()}",
        ),
    )
    return summary


def open_release(store: ObjectStore, run_id: str) -> str:
    """The service whose release by a run is unfinished; empty if there is none."""
    for key in store.keys("deployments"):
        service = key.split("/")[1]
        record = _read(store, service) if key == journal_key(service) else None
        if record is not None and record[0].state != "done" and record[0].champion.run_id == run_id:
            return service
    return ""


def is_released(store: ObjectStore, deployment: Deployment) -> bool:
    """Whether the release of this bundle is complete; an unreadable record counts as incomplete."""
    try:
        record = _read(store, deployment.service)
        complete = record is not None and record[0].state == "done" and record[0].deployment == deployment
        return complete and Deployment.parse(store, store.read(deployment_key(deployment.service))[0]) == deployment
    except (MistereError, ValueError):
        return False


def _acquire(store: ObjectStore, mirror: Mirror, champion: Champion, deployment: Deployment) -> _Held:
    """Acquire the service's journal; wait briefly for a release in progress."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            recover(store, mirror, deployment.service)
            last = _read(store, deployment.service)
            key = deployment_key(deployment.service)
            journal = Journal(
                state="pending",
                since=time.time(),
                deployment_before=store.read(key)[0].decode() if store.exists(key) else "",
                deployment=deployment,
                champion=champion,
                **_this_process(),
            )
            return _Held(store, journal, _write(store, journal, last[1] if last else ABSENT))
        except ConflictError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _read(store: ObjectStore, service: str) -> tuple[Journal, str] | None:
    try:
        data, version = store.read(journal_key(service))
    except MissingObjectError:
        return None
    try:
        return Journal.model_validate_json(data), version
    except ValidationError:
        store.delete_object(journal_key(service))  # a damaged journal is dropped; the champion's pointer decides
        return None


def _write(store: ObjectStore, journal: Journal, expected: str) -> str:
    return store.write(
        journal_key(journal.deployment.service), journal.model_dump_json(indent=1).encode(), expected=expected
    )


def _move_back(store: ObjectStore, mirror: Mirror, champion: Champion, before: Champion | None) -> None:
    """Undo the champion's move, unless another process has moved it since."""
    pointer = read_champion(store)
    if pointer.digest != champion.bundle_digest:
        return
    if before is None:
        store.delete_object(CHAMPION_KEY)
        return
    move_champion(store, pointer, before)
    with suppress(MistereError):
        mirror(before)


def _restore_deployment(store: ObjectStore, journal: Journal) -> None:
    key = deployment_key(journal.deployment.service)
    if journal.deployment_before:
        store.write(key, journal.deployment_before.encode())
    else:
        store.delete_object(key)


def _this_process() -> dict[str, Any]:
    return {"host": socket.gethostname(), "process": os.getpid()}


def _alive(journal: Journal) -> bool:
    """Whether the process that holds the journal may still be running."""
    if time.time() - journal.since > _LEASE_SECONDS:
        return False
    return journal.host != socket.gethostname() or Path(f"/proc/{journal.process}").exists()
