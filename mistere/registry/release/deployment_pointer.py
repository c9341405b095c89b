"""Writes of a deployment's pointer that a process without the journal cannot undo, even if they arrive late.

Each write is conditional, and each pointer that is written is another version of the object (its fence). So a write of a killed
release, or of one that lost its lease, fails once the pointer was written again.
"""

from __future__ import annotations

from contextlib import suppress

from mistere.artifacts.object_store import ABSENT, ConflictError, MissingObjectError, ObjectStore
from mistere.common.errors import ArtifactError
from mistere.registry.release.journal import HeldJournal, Journal
from mistere.serving.deployment import Deployment, deployment_key, not_deployed


def pointer_version(store: ObjectStore, service: str) -> str:
    """The version of a service's pointer; :data:`ABSENT` without one."""
    try:
        return store.read(deployment_key(service))[1]
    except MissingObjectError:
        return ABSENT


def previous_deployment(store: ObjectStore, journal: Journal) -> Deployment:
    """The deployment before a release; one without a bundle if there was none.

    Raises:
        ArtifactError: its pointer was damaged when the release began.
    """
    service = journal.deployment.service
    if not journal.deployment_before:
        return not_deployed(service)
    try:
        return Deployment.parse(store, journal.deployment_before)
    except ValueError as error:
        raise ArtifactError(
            f"the deployment of {service} that its release journal holds is damaged",
            "move the journal away and run `mistere promote` with the version that `mistere models` lists as champion",
        ) from error


def write_pointer(held: HeldJournal, deployment: Deployment) -> None:
    """Write the pointer as the holder of the journal, over a late write of an earlier holder too.

    Raises:
        LeaseLostError: another process took over the journal.
    """
    key = deployment_key(deployment.service)
    while True:
        version = pointer_version(held.store, deployment.service)
        held.update()  # after the version was read, so that the write fails if a later holder wrote the pointer meanwhile
        with suppress(ConflictError):
            held.store.write(key, deployment.recorded(held.store), expected=version)
            return


def restore_pointer(held: HeldJournal) -> None:
    """Write the pointer of before the release.

    Raises:
        LeaseLostError: another process took over the journal.
    """
    journal, service = held.journal, held.journal.deployment.service
    never_written = journal.state == "pending" and not journal.deployment_before
    if never_written and pointer_version(held.store, service) == ABSENT:
        return  # a release writes its pointer after the state
    write_pointer(held, previous_deployment(held.store, journal))
