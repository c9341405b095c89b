"""Begin a release, and complete or roll back that of a process that was killed.

Whoever begins a release acquires the service's journal; before that, an unfinished release of the journal is rolled forward if
the champion had moved, and back if not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from mistere.artifacts.object_store import ABSENT, ConflictError, ObjectStore
from mistere.common.errors import ArtifactError, MistereError
from mistere.registry.release.champion import Champion, ChampionPointer, read_champion, settled_champion
from mistere.registry.release.deployment_pointer import previous_deployment, restore_pointer, write_pointer
from mistere.registry.release.journal import (
    LEASE_SECONDS,
    RENEW_SECONDS,
    HeldJournal,
    Journal,
    is_alive,
    read_journal,
    services,
    this_process,
    write_journal,
)
from mistere.registry.release.promotion_log import (
    PromotionEvent,
    add,
    complete,
    complete_moved,
    now,
    read_log,
    sweep,
    who,
)
from mistere.serving.deployment import Deployment, find_deployment
from mistere.serving.kserve.lease import LeaseLostError

Mirror = Callable[[Champion], None]
"""Points the registry's aliases to a champion and its predecessor."""

PATIENCE_SECONDS = 10.0
"""How long a release waits for another one of the same service."""


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
            if record is not None and record[0].unfinished and record[0].moved(pointer):
                return [name]
    return []


def _recover(store: ObjectStore, mirror: Mirror, service: str) -> str:
    record = read_journal(store, service)
    if record is None or not record[0].unfinished:
        return ""
    journal, version = record
    if is_alive(store, journal):
        raise _in_progress(journal)
    held = HeldJournal(store, journal, version)
    held.update(
        **this_process()
    )  # before the champion is read, so that the earlier holder sees that it lost the journal
    try:
        return _settle(held, mirror)
    except LeaseLostError:
        raise
    except BaseException:  # whoever comes next need not wait for the end of the lease
        with suppress(MistereError):
            held.update(since=0.0, host=journal.host, process=journal.process, machine=journal.machine)
        raise


def _settle(held: HeldJournal, mirror: Mirror) -> str:
    """Complete or roll back the release of a journal that this process has taken over; returns a sentence on it."""
    store, journal = held.store, held.journal
    pointer = settled_champion(store, journal.moved)
    finished = journal.state == "deployed" and journal.moved(pointer)
    if finished and pointer.champion is not None:
        write_pointer(held, journal.deployment)
        mirror(pointer.champion)
        summary = "A release that was interrupted after it had moved the champion was completed."
    else:
        if journal.deployment.mode != "local":
            from mistere.serving.kserve.cluster_release import undo_interrupted

            before = previous_deployment(store, journal) if journal.deployment_before else None
            undo_interrupted(journal.deployment, before, held.renew_lease)
            held.update(share=0)
        restore_pointer(held)
        if pointer.champion is not None:
            mirror(pointer.champion)
        summary = "A release that was interrupted before it had moved the champion was rolled back."
        if journal.share:
            summary += f" Its version had up to {journal.share} % of the requests, which the deployed one has again."
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
    reason = summary
    if finished or event.outcome == "undone":  # the latter: a canary that a person was taking back
        reason = f"{event.reason} The process was interrupted, and the next one completed {'the release' if finished else 'this'}."
    logged = complete(store, event, "done" if finished else "undone", reason.strip())
    if logged.outcome == "done" and logged.action == "canary":  # it had its share when its process was killed
        add(store, event.model_copy(update={"at": now(), "outcome": "undone", "reason": summary, "by": who()}))
    held.update(state="done", share=0)
    return summary


def open_release(store: ObjectStore, run_id: str) -> str:
    """The service whose release by a run is unfinished; empty if there is none. A damaged journal is left out.

    The release of the run's version by a person is none of the run.
    """
    for service in services(store):
        with suppress(ArtifactError):
            record = read_journal(store, service)
            if record is not None and record[0].unfinished and record[0].is_of(run_id):
                return service
    return ""


def is_released(store: ObjectStore, deployment: Deployment) -> bool:
    """Whether the release of this bundle is complete; an unreadable record counts as incomplete."""
    try:
        record = read_journal(store, deployment.service)
        complete = record is not None and record[0].state == "done" and record[0].deployment == deployment
        return complete and find_deployment(store, deployment.service) == deployment
    except MistereError:
        return False


def _in_progress(journal: Journal) -> ConflictError:
    return ConflictError(
        f"another release of {journal.deployment.service} is in progress (on {journal.host}): wait for it and run again; if its process was "
        f"killed, its lease ends within {LEASE_SECONDS / 60:g} minutes."
    )


def acquire(
    store: ObjectStore, mirror: Mirror, champion: Champion, deployment: Deployment, event: PromotionEvent
) -> HeldJournal:
    """Acquire the service's journal; wait briefly for a release in progress.

    Raises:
        ConflictError: a release stays in progress.
        MistereError: another version is a canary by hand.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            recover(store, mirror, deployment.service)
            last = read_journal(store, deployment.service)
            if last is None:
                _complete_abandoned(store)
            elif last[0].unfinished:  # it began after the look for an unfinished one
                raise _in_progress(last[0])
            else:
                _require_no_other_canary(last[0], deployment)
            before = find_deployment(store, deployment.service)
            journal = Journal(
                state="pending",
                deployment_before=before.recorded(store).decode() if before else "",
                deployment=deployment,
                champion=champion,
                event=event,
                share=last[0].share if last else 0,
                **this_process(),
            )
            standing = last[0] if last and last[0].state == "canary" else None
            held = HeldJournal(store, journal, write_journal(store, journal, last[1] if last else ABSENT), standing)
        except ConflictError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            sweep(store)
            return held


def _require_no_other_canary(journal: Journal, deployment: Deployment) -> None:
    """Check that a release can go on from a standing canary, or that there is none."""
    if journal.state != "canary":
        return
    version, stands = journal.deployment.model_version, journal.deployment
    gets = f"version {version} gets {journal.share} % of the requests of {deployment.service} as a canary"
    if stands.bundle_digest != deployment.bundle_digest:
        raise MistereError(
            f"{gets}: `mistere promote {journal.champion.model_name}/{version}` releases it, `mistere rollback --unfinished` "
            "takes it back; then run again."
        )
    if _routing(stands) != _routing(deployment):
        raise MistereError(
            f"{gets}, by a Gateway that the profile's deployment.mode, deployment.namespace and deployment.gateway do not name: "
            "`mistere rollback --unfinished` takes it back; then run again."
        )


def _routing(deployment: Deployment) -> tuple[Any, ...]:
    """The settings of a deployment that say which route splits its requests."""
    return (deployment.mode, *(deployment.settings.get(key) for key in ("namespace", "gateway")))


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
