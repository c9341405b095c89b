"""A canary by hand: a version gets a share of the requests until a person releases it or takes it back.

The journal's state is ``canary`` then: no process holds it, nothing is recovered, and only a release of the same version, or
:func:`end_canary`, goes on from there. The champion and the deployment pointer do not move.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from mistere.artifacts.object_store import ObjectStore
from mistere.common.errors import MistereError, why
from mistere.registry.release.champion import Champion, read_champion
from mistere.registry.release.deployment_pointer import previous_deployment
from mistere.registry.release.journal import HeldJournal, Journal, read_journal, this_process
from mistere.registry.release.promotion_log import PromotionEvent, add, complete, now
from mistere.registry.release.recovery import Mirror, acquire
from mistere.serving.deployment import Deployment, RollbackError
from mistere.serving.kserve.cluster_release import candidate_may_receive, undo_interrupted
from mistere.serving.kserve.lease import LeaseLostError, RenewLease


def standing_canary(store: ObjectStore, service: str) -> Journal | None:
    """The journal of a service whose canary stands; None if none does."""
    record = read_journal(store, service)
    return record[0] if record is not None and record[0].state == "canary" else None


def hold_canary(
    store: ObjectStore,
    mirror: Mirror,
    champion: Champion,
    deployment: Deployment,
    share: int,
    reason: str,
    by: str,
    start: Callable[[RenewLease], str],
    check: Callable[[], None] | None = None,
) -> str:
    """Give a version a share of the requests, and leave it so.

    Args:
        store: the object store.
        mirror: updates the registry's aliases, should the release of a killed process have to be completed first.
        champion: what the champion would become.
        deployment: what the service's pointer would become.
        share: percentage of the requests.
        reason: for the log; one that does not succeed is logged with its error instead.
        by: for the log.
        start: changes the cluster; returns the result of the smoke test. It undoes what it has changed if it fails.
        check: called once this canary holds the journal; raises if what others decided meanwhile forbids it.

    Returns:
        What ``start`` returned.

    Raises:
        ConflictError: another release is in progress.
        MistereError: it failed, and the deployed version has all requests.
    """
    event = _event(store, champion.bundle_digest, champion.model_version, f"{share} % of the requests. {reason}", by)
    held = acquire(store, mirror, champion, deployment, event)
    try:
        add(store, event)
        if check is not None:
            check()
        message = start(held.renew_lease)
    except LeaseLostError:
        raise  # the process that took over undoes and records it
    except BaseException as error:
        complete(store, event, "undone", why(error))
        if isinstance(error, RollbackError):
            held.update(since=0.0)  # the journal stays open, so that recover() completes it
        else:
            held.close_undone()
        raise
    try:
        complete(store, event, "done")  # before the journal: once that says so, nothing completes the event any more
        held.update(state="canary", share=share)
    except LeaseLostError:
        raise
    except MistereError as error:
        with suppress(MistereError):
            held.update(state="pending", since=0.0)
        raise MistereError(
            f"version {champion.model_version} gets {share} % of the requests, but this could not be recorded: {error} `mistere "
            "rollback --unfinished`, or the next release, takes it back."
        ) from error
    return message


def end_canary(store: ObjectStore, service: str, reason: str, by: str) -> Journal | None:
    """Take a canary back: the deployed version gets all requests, and the candidate is deleted.

    A process that is killed meanwhile leaves an unfinished release, which the next one rolls back. The journal has the event, so that the
    log says who took the canary back, and why.

    Returns:
        The canary's journal; None if there is no canary.

    Raises:
        MistereError: the cluster does not take it; nothing has ended, and the next release or another attempt does it.
    """
    record = read_journal(store, service)
    if record is None or record[0].state != "canary":
        return None
    journal, version = record
    champion = journal.champion
    event = _event(store, champion.bundle_digest, champion.model_version, reason, by)
    event = event.model_copy(update={"outcome": "undone"})
    held = HeldJournal(store, journal, version)
    held.update(state="pending", event=event, **this_process())
    try:
        undo_interrupted(journal.deployment, previous_deployment(store, journal), held.renew_lease)
    except LeaseLostError:
        raise  # the process that took over takes it back, too
    except BaseException:
        held.update(state="canary", event=journal.event, share=_share_left(journal))
        raise
    add(store, event)
    held.update(state="done", share=0)
    return journal


def _share_left(journal: Journal) -> int:
    """The share of a canary that could not be taken back wholly: 0 if the Gateway gives it no requests any more."""
    with suppress(MistereError):  # a cluster that does not answer has changed nothing
        if not candidate_may_receive(journal.deployment):
            return 0
    return journal.share


def _event(store: ObjectStore, digest: str, version: str, reason: str, by: str) -> PromotionEvent:
    return PromotionEvent(
        at=now(),
        action="canary",
        outcome="pending",
        before=read_champion(store).digest,
        after=digest,
        version=version,
        reason=reason,
        by=by,
    )
