"""Moving the champion, its deployment and the registry's aliases together: all of it, or nothing.

The order is: take the service's journal (a conditional put, so only one release is under way), on a cluster roll the bundle out,
point the deployment to the new bundle, move the champion (a conditional put against what the release was decided on), mirror it
in MLflow's aliases, close the journal. A failure on the way puts back what was moved. A process that was killed on the way leaves
its journal open; whoever comes next finishes a release whose champion had moved and takes back one whose champion had not.
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
from mistere.serving.deployment import Deployment, NotTakenBackError, deployment_key, journal_key

Mirror = Callable[[Champion], None]
"""Points the registry's aliases to a champion and its predecessor."""
RollOut = Callable[[Callable[[], None]], Callable[[], None]]
"""Makes a cluster serve the bundle, calling its argument while it waits; its answer takes that back."""

_LEASE_SECONDS = 180.0  # the moves take seconds; a roll-out renews it
_BEAT_SECONDS = 30.0
_PATIENCE_SECONDS = 10.0


class Journal(BaseModel):
    """A release that is under way, or the last one.

    Attributes:
        state: ``pending``: the deployment is being moved; ``deployed``: it has been, and tried; ``done``: nothing is left to do.
        host: where the process runs that holds the journal.
        process: its number.
        since: when it took it.
        deployment_before: the deployment's pointer as it was, as text; empty for none.
        deployment: the pointer that is to be.
        champion: the champion that is to be.
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
        mirror: moves the registry's aliases.
        seen: the champion that the decision was made against.
        champion: the new one.
        deployment: the service's new pointer.
        action: for the log.
        reason: for the log.
        by: for the log.
        roll_out: makes a cluster serve the bundle; None where the pointer is all there is to a deployment.

    Raises:
        ConflictError: somebody moved the champion meanwhile; nothing was changed.
        MistereError: a part failed, and everything was put back.
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
        held = _take(store, mirror, champion, deployment)
    except ConflictError:
        append(store, event.model_copy(update={"outcome": "lost"}))
        raise
    moved, take_back = False, None
    try:
        if read_champion(store).version != seen.version:
            raise ConflictError(
                "the champion changed after this release was decided: run again to compare with the new one."
            )
        take_back = roll_out(held.beat) if roll_out else None
        held.update(state="deployed")
        store.write(deployment_key(deployment.service), deployment.model_dump_json(indent=1).encode())
        move_champion(store, seen, champion)
        moved = True
        mirror(champion)
    except BaseException as error:
        with suppress(MistereError):  # what cannot be put back now, recover() puts back, for the journal stays open
            held.update(since=time.time())  # whoever took the journal over has put back, and may have released, already
            if moved:
                _move_back(store, mirror, champion, before)
            if take_back is not None:
                take_back()
            _restore_deployment(store, held.journal)
            left = isinstance(error, NotTakenBackError)
            held.update(**{"since": 0.0} if left else {"state": "done"})
        lost = isinstance(error, ConflictError)
        append(store, event.model_copy(update={"outcome": "lost" if lost else "undone"}))
        raise
    held.update(state="done")
    append(store, event)


@dataclass
class _Held:
    """A journal that this process holds."""

    store: ObjectStore
    journal: Journal
    version: str

    def update(self, **fields: Any) -> None:
        """Write it anew.

        Raises:
            ConflictError: another process took it over.
        """
        self.journal = self.journal.model_copy(update=fields)
        self.version = _write(self.store, self.journal, self.version)

    def beat(self) -> None:
        """Say that this process is still at it, now and then."""
        if time.time() - self.journal.since > _BEAT_SECONDS:
            self.update(since=time.time())


def recover_patiently(store: ObjectStore, mirror: Mirror, service: str) -> str:
    """As :func:`recover`, and wait for the end of a lease: a pod that is started again cannot see that the one before is gone."""
    deadline = time.monotonic() + _LEASE_SECONDS + _BEAT_SECONDS
    while True:
        try:
            return recover(store, mirror, service)
        except ConflictError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1.0)


def recover(store: ObjectStore, mirror: Mirror, service: str) -> str:
    """Finish, or take back, what a killed process left under way; a sentence on what was done, empty for nothing.

    Raises:
        ConflictError: somebody is at it right now.
    """
    found = _read(store, service)
    if found is None or found[0].state == "done":
        return ""
    journal, version = found
    if _alive(journal):
        raise ConflictError(
            f"another release of {service} is under way (on {journal.host}): wait for it and run again."
        )
    pointer = read_champion(store)
    version = _write(store, journal.model_copy(update={"since": time.time(), **_me()}), version)
    there = journal.state == "deployed" and pointer.digest == journal.champion.bundle_digest
    finished = there and pointer.champion is not None
    if finished and pointer.champion is not None:
        store.write(deployment_key(service), journal.deployment.model_dump_json(indent=1).encode())
        mirror(pointer.champion)
        said = "A release that was interrupted after it had moved the champion was completed."
    else:
        if journal.deployment.mode != "local":
            from mistere.serving.kserve.cluster_release import take_back_interrupted

            take_back_interrupted(journal.deployment, journal.deployment_before)
        _restore_deployment(store, journal)
        if pointer.champion is not None:
            mirror(pointer.champion)
        said = "A release that was interrupted before it had moved the champion was taken back."
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
            reason=said,
            by=f"{socket.gethostname()}",
        ),
    )
    return said


def open_release(store: ObjectStore, run_id: str) -> str:
    """The service whose release by a run has not come to its end; empty for none."""
    for key in store.keys("deployments"):
        service = key.split("/")[1]
        found = _read(store, service) if key == journal_key(service) else None
        if found is not None and found[0].state != "done" and found[0].champion.run_id == run_id:
            return service
    return ""


def is_released(store: ObjectStore, deployment: Deployment) -> bool:
    """Whether a release of this very bundle came to its end; what cannot be read counts as not."""
    try:
        found = _read(store, deployment.service)
        done = found is not None and found[0].state == "done" and found[0].deployment == deployment
        return done and Deployment.model_validate_json(store.read(deployment_key(deployment.service))[0]) == deployment
    except (MistereError, ValueError):
        return False


def _take(store: ObjectStore, mirror: Mirror, champion: Champion, deployment: Deployment) -> _Held:
    """Hold the service's journal; waits a little for a release that is under way."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            recover(store, mirror, deployment.service)
            found = _read(store, deployment.service)
            key = deployment_key(deployment.service)
            journal = Journal(
                state="pending",
                since=time.time(),
                deployment_before=store.read(key)[0].decode() if store.exists(key) else "",
                deployment=deployment,
                champion=champion,
                **_me(),
            )
            return _Held(store, journal, _write(store, journal, found[1] if found else ABSENT))
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
        store.delete_object(journal_key(service))  # nothing can be learnt from it; the champion's pointer decides
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


def _me() -> dict[str, Any]:
    return {"host": socket.gethostname(), "process": os.getpid()}


def _alive(journal: Journal) -> bool:
    """Whether the process that holds the journal may still be at work."""
    if time.time() - journal.since > _LEASE_SECONDS:
        return False
    return journal.host != socket.gethostname() or Path(f"/proc/{journal.process}").exists()
