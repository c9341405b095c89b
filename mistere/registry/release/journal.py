"""The journal of a service: the release in progress, or the last one. Whoever writes it by a conditional put holds it.

A holder renews its lease before each part of a release. A process that finds the lease of another one expired takes the
journal over; the earlier holder notices that when it next renews. How old a lease is, the store's clock says: by those of two
machines, which may differ, a release in progress would look abandoned.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mistere.artifacts.object_store import ConflictError, MissingObjectError, ObjectStore
from mistere.artifacts.sealed_record import SealedRecord
from mistere.common.errors import ArtifactError
from mistere.registry.release.champion import Champion, ChampionPointer
from mistere.registry.release.promotion_log import PromotionEvent
from mistere.serving.deployment import Deployment, journal_key
from mistere.serving.kserve.lease import LeaseLostError

LEASE_SECONDS = 180.0  # the moves take seconds; a roll-out renews the lease
RENEW_SECONDS = 30.0


class Journal(SealedRecord):
    """The release in progress, or the last one.

    Attributes:
        state: ``pending``: the roll-out is in progress; ``deployed``: the bundle is deployed and tested; ``done``: finished; ``canary``: a
            person has given the bundle a share of the requests, and decides later.
        host: of the process that holds the journal.
        process: its process id.
        machine: identifies the machine, since its start, and the namespace in which the process id holds; empty if unknown.
        since: when it acquired the journal or renewed the lease, in seconds since 1970 by its clock; 0 if it has given the release up.
        deployment_before: the previous deployment pointer as JSON; empty if there was none.
        deployment: the new deployment pointer.
        champion: the new champion.
        event: the release's event in the promotion log; None in journals of earlier versions.
        share: percentage of the live requests that the candidate may have, written before the route gives it; 0 without a canary.
        holder: random text that tells this acquisition from every other one; empty in journals of earlier versions.
    """

    state: Literal["pending", "deployed", "done", "canary"]
    host: str
    process: int
    machine: str = ""
    since: float
    deployment_before: str
    deployment: Deployment
    champion: Champion
    event: PromotionEvent | None = None
    share: int = 0
    holder: str = ""

    @property
    def unfinished(self) -> bool:
        """Whether a process has to finish the release, or roll it back."""
        return self.state in {"pending", "deployed"}

    def is_of(self, run_id: str) -> bool:
        """Whether this is the release by a run, and not by a person who releases the run's version."""
        return self.champion.run_id == run_id and (self.event is None or self.event.action == "deploy")

    def moved(self, pointer: ChampionPointer) -> bool:
        """Whether this release has moved the champion there."""
        return pointer.moved_by(self.champion.bundle_digest, self.champion.moved_at)


@dataclass
class HeldJournal:
    """A journal that this process holds.

    Attributes:
        store: the object store.
        journal: its content.
        version: of its object.
        standing: the journal of the canary that stood when this process took it; None if none did.
        touched: whether this process may have changed a candidate's share.
    """

    store: ObjectStore
    journal: Journal
    version: str
    standing: Journal | None = None
    touched: bool = False

    def close_undone(self) -> None:
        """Close the journal of a release that was undone. A canary that the attempt has not touched stands as before.

        Raises:
            LeaseLostError: another process took over the journal.
        """
        if self.standing is not None and not self.touched:
            self.journal = self.standing.model_copy(update={"holder": self.journal.holder})
            self.update(share=self.standing.share)
        else:
            self.update(state="done", share=0)

    def update(self, **fields: Any) -> None:
        """Write changed fields and renew the lease.

        Raises:
            LeaseLostError: another process took over the journal.
        """
        self.journal = self.journal.model_copy(update={"since": time.time(), **fields})
        try:
            self.version = write_journal(self.store, self.journal, self.version)
        except ConflictError as error:
            current = read_journal(self.store, self.journal.deployment.service)
            if current is not None and current[0].holder == self.journal.holder:
                # The answer to an earlier write was lost on the way back, so its version was unknown here.
                self.version = write_journal(self.store, self.journal, current[1])
                return
            raise LeaseLostError(
                f"the release of {self.journal.deployment.service} took longer than its lease, and another process took it over: "
                "see `mistere models --log`, and run again.",
                superseded=current is not None and current[0].event != self.journal.event,
            ) from error

    def renew_lease(self, share: int | None = None) -> None:
        """Renew the lease if it is older than half a minute, or record the candidate's share before it gets it."""
        self.touched |= share is not None
        if share is not None and (
            share or self.journal.share
        ):  # the same one, too: who gives it must still hold the journal
            self.update(share=share)
        elif abs(time.time() - self.journal.since) > RENEW_SECONDS:
            self.update()


def is_alive(store: ObjectStore, journal: Journal) -> bool:
    """Whether the process that holds a journal may still be running.

    Args:
        store: the object store, whose clock says how old the lease is.
        journal: as it was read.
    """
    if not journal.since:
        return False
    try:
        age = store.age(journal_key(journal.deployment.service))
    except MissingObjectError:  # it was moved away meanwhile
        return False
    if abs(age) > LEASE_SECONDS:  # also where a clock was set back, and the lease is from the future
        return False
    return not journal.machine or journal.machine != _this_machine() or _is_running(journal.process)


def _is_running(process: int) -> bool:
    """Whether this machine has a process of that id; ``/proc`` may hide those of other users."""
    try:
        os.kill(process, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _this_machine() -> str:
    """Identifies this machine, since its start, and its process ids; empty if the system does not tell.

    Host names do not: those of two laptops may be equal, and a container may have that of its host, but process ids of its own.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except (OSError, ValueError):
        return ""


def this_process() -> dict[str, Any]:
    """The journal's fields that name its holder."""
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "machine": _this_machine(),
        "since": time.time(),
        "holder": secrets.token_hex(8),
    }


def services(store: ObjectStore) -> list[str]:
    """The names of the services that have a journal."""
    return [key.split("/")[1] for key in store.keys("deployments") if key.endswith("/journal.json")]


def read_journal(store: ObjectStore, service: str) -> tuple[Journal, str] | None:
    """The journal of a service and its version; None if there was no release yet.

    Raises:
        ArtifactError: it is damaged. It is not replaced, because what an unfinished release had changed stands only there.
    """
    key = journal_key(service)
    try:
        data, version = store.read(key)
    except MissingObjectError:
        return None
    journal = Journal.unsealed(data)
    if journal is None:
        raise ArtifactError(
            f"the release journal {store.location(key)} is damaged",
            "restore it, or move it away and run `mistere promote` with the version that `mistere models` lists as champion, which "
            "deploys it again",
        )
    return journal.model_copy(update={"deployment": journal.deployment.resolved(store)}), version


def write_journal(store: ObjectStore, journal: Journal, expected: str) -> str:
    """Write the journal, unless it has another version than the expected one; returns the new version.

    Raises:
        ConflictError: it has another version.
    """
    recorded = journal.model_copy(update={"deployment": journal.deployment.relative_to(store)})
    return store.write(journal_key(journal.deployment.service), recorded.sealed(), expected=expected)
