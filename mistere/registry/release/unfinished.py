"""Releases that are not finished: in progress, abandoned by a process that was killed, or a canary that a person has to decide on.

A run takes back what it finds at its start, because its own release comes hours later; its exit handler does so for the run itself.
Everybody else is told: ``mistere doctor``, ``mistere models`` and the monitoring pipeline.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from mistere.artifacts.object_store import ConflictError, ObjectStore
from mistere.common.counting import counted
from mistere.common.errors import ArtifactError, MistereError, why
from mistere.registry.release.champion import read_champion
from mistere.registry.release.journal import LEASE_SECONDS, RENEW_SECONDS, Journal, is_alive, read_journal, services
from mistere.registry.release.recovery import Mirror, recover
from mistere.serving.deployment import journal_key

_LONG_SECONDS = 24 * 3600.0
_UNITS = (("day", 24 * 3600.0), ("hour", 3600.0), ("minute", 60.0))
_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class UnfinishedRelease:
    """A release that is not finished.

    Attributes:
        journal: what the store holds of it.
        alive: whether its process may still be running; for a canary by hand, which no process holds, False.
        moved: whether it has moved the champion already.
        seconds: since its process, or the person, last gave a sign, by the store's clock; since its begin where a failed attempt to end
            it has written the journal since.
    """

    journal: Journal
    alive: bool
    moved: bool
    seconds: float

    @property
    def by_hand(self) -> bool:
        """Whether it is a canary that stands until a person decides."""
        return self.journal.state == "canary"

    @property
    def abandoned(self) -> bool:
        """Whether its process is gone."""
        return not self.alive and not self.by_hand

    @property
    def stands_long(self) -> bool:
        """Whether it is a canary that has stood for a day without a decision."""
        return self.by_hand and self.seconds > _LONG_SECONDS

    @property
    def may_have_requests(self) -> bool:
        """Whether live requests may reach a version that is not released."""
        return not self.moved and self.journal.deployment.mode != "local" and (self._may_have_all or self._share != 0)

    @property
    def _may_have_all(self) -> bool:
        """Whether the service itself may have the version: it is tested there, or got it without shares before."""
        steps = (self.journal.deployment.settings.get("canary") or {}).get("steps", True)
        return self.journal.state == "deployed" or (self.journal.state == "pending" and not steps)

    @property
    def _share(self) -> int | None:
        """The candidate's share at most; None if the roll-out has none, because it replaces pods or Knative splits the requests."""
        deployment = self.journal.deployment
        gateway = deployment.settings.get("gateway") or {}
        return self.journal.share if deployment.mode == "standard" and gateway.get("name") else None

    def sentence(self) -> str:
        """What is not finished, since when, and what to run."""
        journal = self.journal
        version, service = journal.champion.model_version, journal.deployment.service
        by = f" (by {journal.event.by})" if journal.event else ""
        if self.by_hand:
            return (
                f"Version {version} has had {journal.share} % of the requests of {service} for {_words(self.seconds)}, as a canary by "
                f"hand{by}: `mistere promote {self._name}` releases it, `mistere rollback --unfinished` takes it back."
            )
        if self.alive:
            return f"Version {version} is being released to {service}{by}, on {journal.host}{self._requests(' and gets ')}."
        what = "canary" if journal.event and journal.event.action == "canary" else "release"
        ended = f"The {what} of version {version} to {service}{by} was interrupted {_words(self.seconds)} ago on {journal.host}"
        if self.moved:
            return f"{ended}, after it had moved the champion: `mistere promote {self._name}`, or the next run, completes it."
        return f"{ended}{self._requests(', and the version may have ')}: `mistere rollback --unfinished`, or the next run, takes it back."

    @property
    def _name(self) -> str:
        return f"{self.journal.champion.model_name}/{self.journal.champion.model_version}"

    def _requests(self, verb: str) -> str:
        if not self.may_have_requests:
            return ""
        if self._may_have_all:
            return f"{verb}all requests"
        return f"{verb}{f'{self._share} %' if self._share is not None else 'a part'} of the requests"


def _words(seconds: float) -> str:
    """A duration in its largest unit: ``3 hours``."""
    for unit, size in _UNITS:
        if seconds >= size:
            return counted(int(seconds // size), unit)
    return counted(max(0, int(seconds)), "second")


def unfinished_releases(store: ObjectStore) -> list[UnfinishedRelease]:
    """The releases of all services that are not finished; a damaged journal, which others name, is left out."""
    found = []
    for service in services(store):
        with suppress(ArtifactError):
            release = _unfinished(store, service)
            found += [release] if release is not None else []
    return found


def _unfinished(store: ObjectStore, service: str) -> UnfinishedRelease | None:
    record = read_journal(store, service)
    if record is None or record[0].state == "done":
        return None
    journal = record[0]
    seconds = max(0.0, store.age(journal_key(service)))
    if journal.event is not None and (journal.state == "canary" or not journal.since):
        seconds = max(seconds, time.time() - journal.event.at)  # an attempt to end it has written the journal, too
    alive = journal.unfinished and is_alive(store, journal)
    return UnfinishedRelease(
        journal, alive, journal.state == "deployed" and journal.moved(read_champion(store)), seconds
    )


def recover_abandoned(store: ObjectStore, mirror: Mirror, service: str) -> str:
    """Complete or roll back the release of a killed process; one whose process renews its lease meanwhile is left alone.

    Waits for the end of the lease, because a process on another machine cannot be seen.

    Args:
        store: the object store.
        mirror: updates the registry's aliases.
        service: name of the service.

    Returns:
        A sentence on what was done; empty if there was nothing to do.

    Raises:
        ArtifactError: the journal is damaged.
        MistereError: it could not be completed or rolled back yet.
    """
    first, deadline = read_journal(store, service), time.monotonic() + LEASE_SECONDS + RENEW_SECONDS
    while True:
        try:
            return recover(store, mirror, service)
        except ConflictError:
            current = read_journal(store, service)
            if first is None or current is None or current[1] != first[1] or time.monotonic() > deadline:
                return ""
        time.sleep(_POLL_SECONDS)


def take_back_abandoned(store: ObjectStore, mirror: Mirror, service: str, note: Callable[[str], object]) -> None:
    """Take back what a killed process has left of a release, before hours of other work; a failure is only noted.

    Args:
        store: the object store.
        mirror: updates the registry's aliases.
        service: name of the service that this run deploys to. Those of others may be on other clusters: they are only named.
        note: receives a sentence on what was done or could not be done.
    """
    try:
        if done := recover_abandoned(store, mirror, service):
            note(done)
        for release in unfinished_releases(store):
            own = release.journal.deployment.service == service
            if own and release.by_hand:
                note(f"{release.sentence()} Until then no other version is released.")
            elif release.abandoned and not own:
                note(release.sentence())
    except (MistereError, ValueError) as error:  # the latter: settings of another version of this package
        note(f"what an interrupted release has left could not be taken back yet: {why(error)}")
