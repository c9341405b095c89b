"""``mistere approve`` and ``mistere reject``: a person decides on a version that waits."""

from __future__ import annotations

from functools import partial

from mistere.common.errors import MistereError, UsageError
from mistere.registry.lineage import Lineage
from mistere.registry.mlflow.model_registry import RegisteredVersion, registered_versions, tag_version
from mistere.registry.release.candidates import (
    reject_candidate,
    require_no_rejection,
    standing,
    standings,
)
from mistere.registry.release.champion import read_champion
from mistere.registry.release.promotion_log import read_log, who
from pipelines.cli.commands.registry.promote import OTHER_INPUTS, release_version
from pipelines.cli.output.console import OutputConsole
from pipelines.cli.registry_location import RegistryLocation

_CONSOLE = OutputConsole(highlight=False, soft_wrap=True)


def approve(
    location: RegistryLocation, reference: str, model_name: str, reason: str, *, other_inputs: bool = False
) -> None:
    """Release a version that waits, as ``mistere promote`` releases others.

    Args:
        location: store and registry.
        reference: the version, or a model of which one version waits.
        model_name: the model, where the reference names none.
        reason: for the log.
        other_inputs: release it even if it does not understand the requests of the deployed version's clients.

    Raises:
        UsageError: there is no such version, it does not wait, it reads other inputs than the deployed one, or there is no reason.
        MistereError: the profile lets nobody approve it, its smoke test failed, or somebody else decided meanwhile.
    """
    reason = _given(reason)
    version, lineage = _find(location, reference, model_name)
    known = read_log(location.store).events
    stands = standing(location.store, version.bundle_digest)
    champion = read_champion(location.store)
    named = f"version {version.version} of {version.name}"
    if stands.state == "released" and champion.digest != version.bundle_digest:
        raise UsageError(f"{named} was released before: make it the champion again with `mistere promote`.")
    if stands.state == "not released":
        raise UsageError(f"{named} does not wait for approval: release it with `mistere promote`.")
    candidate = stands.candidate
    if candidate is not None and candidate.final_holds and stands.state != "released":
        first = candidate.final_holds[0]
        settings = [f"gate.{name}" for name in first.settings if name.startswith("approve_")]
        remedy = f"; a run whose profile sets {settings[0]} to true leaves that to a person" if settings else ""
        raise MistereError(f"{named} cannot be approved: {first.sentence.rstrip('.')}{remedy}.")
    if stands.state == "rejected" and stands.decision is not None:
        _print(f"{stands.decision.by} had rejected {named}: {stands.decision.reason}")
    if (
        candidate is not None
        and champion.champion
        and champion.digest not in {candidate.compared_with, version.bundle_digest}
    ):
        now = f"the present champion, version {champion.champion.model_version}"
        _print(f"The gate did not compare {named} with {now}: `mistere compare` shows both.")
    check = partial(require_no_rejection, location.store, version.bundle_digest, version.version, known)
    release_version(location, lineage, "approve", reason, check, remedy="" if other_inputs else OTHER_INPUTS)
    _tag(location, version)


def reject(location: RegistryLocation, reference: str, model_name: str, reason: str) -> None:
    """Record that a version is not to be released.

    Args:
        location: store and registry.
        reference: the version, or a model of which one version waits.
        model_name: the model, where the reference names none.
        reason: for the log.

    Raises:
        UsageError: there is no such version, it is the champion, or there is no reason.
        MistereError: it was rejected before, or is being released.
    """
    reason = _given(reason)
    version, lineage = _find(location, reference, model_name)
    named = f"version {version.version} of {version.name}"
    stands = standing(location.store, version.bundle_digest)
    if read_champion(location.store).digest == version.bundle_digest:
        raise UsageError(f"{named} is the champion: `mistere rollback` restores the one before.")
    if stands.state == "rejected" and stands.decision is not None:
        raise MistereError(f"{stands.decision.by} rejected {named} before: {stands.decision.reason}")
    reject_candidate(location.store, lineage.bundle_digest, version.version, reason, who())
    _print(f"{named[:1].upper()}{named[1:]} is rejected; no run and no `mistere promote` releases it.")
    _tag(location, version)


def _given(reason: str) -> str:
    text = " ".join(reason.split())
    if not text:
        raise UsageError("--reason is empty: say why, for the promotion log.")
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _find(location: RegistryLocation, reference: str, model_name: str) -> tuple[RegisteredVersion, Lineage]:
    """The version that a reference names; a model alone means its only version that waits."""
    versions = [] if set(reference) & set("@/") else registered_versions(location.tracking_uri, reference)
    if not versions:  # no model has this name: it is a version
        return location.find(reference, model_name)
    found = standings(location.store, [entry.bundle_digest for entry in versions])
    waiting = [entry.version for entry in versions if found[entry.bundle_digest].state == "waiting"]
    if not waiting:
        raise UsageError(f"no version of {reference} waits for a decision: `mistere models` lists them.")
    if len(waiting) > 1:
        names = ", ".join(f"{reference}/{version}" for version in waiting)
        raise UsageError(f"several versions of {reference} wait for a decision: name one of {names}.")
    return location.find(f"{reference}/{waiting[0]}", model_name)


_DECIDED = {"approve": "approved", "reject": "rejected"}


def _tag(location: RegistryLocation, version: RegisteredVersion) -> None:
    """Show the decision in MLflow, which has no part in it."""
    decision = standing(location.store, version.bundle_digest).decision
    if decision is None or decision.action not in _DECIDED:
        return
    tags = {
        "decision": _DECIDED[decision.action],
        "decided_by": decision.by,
        "decision_reason": decision.reason,
    }
    try:
        tag_version(location.tracking_uri, version.name, version.version, tags)
    except MistereError as error:
        _print(f"The decision stands in the promotion log, but MLflow does not show it: {error}")


def _print(sentence: str) -> None:
    _CONSOLE.print(sentence, markup=False)
