"""Candidates: registered versions with the verdict of the gate, and what a person decided on them.

A version that the gate holds, or any version where the profile says ``registry.release: approval``, waits for a person. The
candidate's record says why; the decision is an event of the promotion log, so that a candidate is decided exactly once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import Field

from mistere.artifacts.manifests import RuleResult
from mistere.artifacts.object_store import ConflictError, MissingObjectError, ObjectStore
from mistere.artifacts.sealed_record import SealedRecord
from mistere.common.errors import ArtifactError, MistereError
from mistere.common.names import Segment
from mistere.registry.release.champion import read_champion
from mistere.registry.release.journal import Journal, read_journal, services
from mistere.registry.release.promotion_log import PromotionEvent, add, complete, now, read_log

TEACHER_COMPARISON: Final = "teacher_comparison"
"""The rule that compares a student with its teacher."""
_FOLDER = "candidates"
State = Literal["waiting", "rejected", "released", "not released"]


class Candidate(SealedRecord):
    """A registered version as the gate judged it.

    Attributes:
        model_version: its version in the registry; empty until it has one.
        run_id: of the latest run that registered it.
        registered_at: when that was, seconds since 1970.
        verdict: of the gate.
        release: ``approval`` if the profile leaves every release to a person.
        holds: the rules that hold it.
        compared_with: digest of the champion's bundle that the gate compared it with, or of a student's teacher; empty if there was none.
        comparison: how a student compares with its teacher; None for models that are none.
    """

    bundle_digest: Segment
    model_name: str
    model_version: str = ""
    run_id: Segment
    registered_at: float
    verdict: Literal["promote", "hold"]
    release: Literal["automatic", "approval"]
    holds: list[RuleResult] = Field(default_factory=list)
    compared_with: str = ""
    comparison: RuleResult | None = None

    @property
    def waits(self) -> bool:
        """Whether a person has to decide on it."""
        return self.verdict == "hold" or self.release == "approval"

    @property
    def final_holds(self) -> list[RuleResult]:
        """The rules that hold it and that no person may override."""
        return [rule for rule in self.holds if rule.final]


@dataclass(frozen=True)
class Standing:
    """Where a version stands.

    Attributes:
        state: ``waiting`` for a person; ``rejected`` by one; ``released`` now or before; ``not released`` for any other.
        decision: the latest event of the promotion log that decided it; None if there is none.
        candidate: its record; None for versions that earlier releases registered.
        approved: whether a person has ever released it by approving it.
    """

    state: State
    decision: PromotionEvent | None = None
    candidate: Candidate | None = None
    approved: bool = False


def candidate_key(bundle_digest: str) -> str:
    """The key of a candidate's record in the store."""
    return f"{_FOLDER}/{bundle_digest}.json"


def record_candidate(store: ObjectStore, candidate: Candidate) -> None:
    """Record a candidate; the verdict of the latest run replaces that of an earlier one on the same bundle."""
    store.write(candidate_key(candidate.bundle_digest), candidate.sealed())


def read_candidate(store: ObjectStore, bundle_digest: str) -> Candidate | None:
    """The record of a candidate; None if the version has none.

    Raises:
        ArtifactError: it is damaged.
    """
    key = candidate_key(bundle_digest)
    try:
        candidate = Candidate.unsealed(store.read(key)[0])
    except MissingObjectError:
        return None
    if candidate is None or candidate.bundle_digest != bundle_digest:
        raise ArtifactError(
            f"the candidate's record {store.location(key)} is damaged",
            "restore it from a copy of the store, or run again, which records the gate's verdict anew",
        )
    return candidate


def standing(store: ObjectStore, bundle_digest: str) -> Standing:
    """Where a version stands.

    Raises:
        ArtifactError: its record, or the champion's pointer, is damaged.
    """
    return _standing(bundle_digest, read_candidate(store, bundle_digest), read_log(store).events)


def standings(store: ObjectStore, bundle_digests: Sequence[str]) -> Mapping[str, Standing]:
    """Where each of several versions stands; a damaged record counts as none.

    Raises:
        ArtifactError: the champion's pointer is damaged.
    """
    events, recorded = read_log(store).events, set(store.keys(_FOLDER))
    found = {}
    for digest in bundle_digests:
        candidate = None
        with suppress(ArtifactError):
            candidate = read_candidate(store, digest) if candidate_key(digest) in recorded else None
        found[digest] = _standing(digest, candidate, events)
    return found


def _standing(digest: str, candidate: Candidate | None, events: Sequence[PromotionEvent]) -> Standing:
    decisions = [event for event in events if event.after == digest and event.outcome == "done" and event.decides]
    if decisions:
        last, approved = decisions[-1], any(event.action == "approve" for event in decisions)
        return Standing("rejected" if last.action == "reject" else "released", last, candidate, approved)
    waits = candidate is not None and candidate.waits
    return Standing("waiting" if waits else "not released", None, candidate)


def reject_candidate(store: ObjectStore, bundle_digest: str, version: str, reason: str, by: str) -> None:
    """Record that a person rejected a version, unless a release of it is in progress or has succeeded.

    The event is added before the journals are read, and a release writes its journal before it reads the log
    (:func:`require_no_rejection`). So of a rejection and a release at the same time, exactly one succeeds.

    Args:
        store: the object store.
        bundle_digest: of the version.
        version: its number in the registry.
        reason: for the log.
        by: for the log.

    Raises:
        ConflictError: a release of it is in progress, or was faster, or it is a canary.
    """
    champion = read_champion(store).digest
    event = PromotionEvent(
        at=now(),
        action="reject",
        outcome="pending",
        before=champion,
        after=bundle_digest,
        version=version,
        reason=reason,
        by=by,
    )
    add(store, event)
    journal = _in_release(store, bundle_digest)
    if journal is not None and journal.state == "canary":
        complete(store, event, "lost", "The version had a share of the requests as a canary.")
        raise ConflictError(
            f"version {version} gets {journal.share} % of the requests of {journal.deployment.service} as a canary: `mistere rollback "
            "--unfinished` takes it back; then reject it."
        )
    released = journal is not None or read_champion(store).digest == bundle_digest
    final = complete(store, event, "lost", _RELEASED_MEANWHILE) if released else complete(store, event, "done")
    if final.outcome != "done":
        raise ConflictError(
            f"version {version} is being released, or was while you rejected it: see `mistere models --log`; `mistere rollback` restores "
            "the champion before."
        )


_RELEASED_MEANWHILE = "A release of this version was in progress."


def require_no_rejection(store: ObjectStore, bundle_digest: str, version: str, known: Sequence[PromotionEvent]) -> None:
    """Check, while a release of a version holds the journal, that nobody has rejected or released the version meanwhile.

    Args:
        store: the object store.
        bundle_digest: of the version.
        version: its number in the registry.
        known: the events that the decision to release it was based on.

    Raises:
        ConflictError: somebody has.
    """
    seen = {event.key for event in known}
    for event in read_log(store).events:
        if event.after != bundle_digest or event.key in seen or not event.decides:
            continue
        if event.action == "reject" and event.outcome == "pending":
            event = complete(store, event, "lost", _RELEASED_MEANWHILE)
        if event.outcome == "done":
            what = "rejected" if event.action == "reject" else "released"
            raise ConflictError(
                f"{event.by} {what} version {version} meanwhile ({event.reason}), so this release ends."
            )


def _in_release(store: ObjectStore, bundle_digest: str) -> Journal | None:
    """The journal of an unfinished release, or of a canary, of a bundle; None if there is none."""
    for service in services(store):
        with suppress(MistereError):  # a damaged journal stops every release of its service
            record = read_journal(store, service)
            if record is not None and record[0].state != "done" and record[0].champion.bundle_digest == bundle_digest:
                return record[0]
    return None
