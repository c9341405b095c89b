"""Sign a published bundle, record its lineage and register it: what a run, ``mistere register`` and ``mistere distill`` do alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import EvaluationReport, GateVerdict, ModelBundle
from mistere.artifacts.object_store import ObjectStore
from mistere.config.registry import RegistryConfig
from mistere.registry.lineage import Lineage
from mistere.registry.mlflow.run_logging import RunRecord
from mistere.registry.release.candidates import TEACHER_COMPARISON, Candidate, Standing, record_candidate, standing
from mistere.registry.release.champion import read_champion

AFFECTS_RESULTS = False
"""A version of the registry is no result of a stage."""


def register_bundle(
    store: ObjectStore,
    tracking_uri: str,
    config: RegistryConfig,
    bundle: ArtifactHandle[ModelBundle],
    lineage: Lineage,
    record: RunRecord,
    report: EvaluationReport,
    verdict: GateVerdict,
    note: Callable[[str], object],
    tags: Mapping[str, str] | None = None,
) -> Mapping[str, str]:
    """Register a bundle as a version with alias ``challenger``, and record it as a candidate with its verdict.

    Args:
        store: the store that holds it.
        tracking_uri: of the MLflow server or database.
        config: names of model and experiment, and who decides on a release.
        bundle: the published bundle.
        lineage: what it was made from.
        record: what MLflow logs of the run or training.
        report: its evaluation.
        verdict: of the gate; no rejection.
        note: receives a sentence for each thing done.
        tags: further tags of the version in MLflow.

    Returns:
        Version, name and location of the model, the id of the experiment, and as ``next`` what follows: ``release``, or ``wait`` with
        the reason as ``waits_for``; its ``state``, and as ``approvable`` the version's name if a person may approve it.

    Raises:
        MistereError: the tracking server cannot be reached or refuses.
        UsageError: the signing key cannot be read.
    """
    from mistere.artifacts.signing import sign_bundle
    from mistere.registry.lineage import write_lineage
    from mistere.registry.mlflow.model_registry import register

    if sign_bundle(store, bundle):
        note("the bundle is signed.")
    candidate = Candidate(
        bundle_digest=lineage.bundle_digest,
        model_name=config.model_name,
        run_id=lineage.run.run_id,
        registered_at=time.time(),
        verdict="promote" if verdict.verdict == "promote" else "hold",
        release=config.release,
        holds=[rule for rule in verdict.rules if rule.outcome == "hold"],
        compared_with=report.champion.bundle_digest if report.champion else "",
        comparison=next((rule for rule in verdict.rules if rule.rule == TEACHER_COMPARISON), None),
    )
    record_candidate(store, candidate)  # before there is a version, which `mistere promote` could release
    recorded = write_lineage(store, lineage)
    shown = {"verdict": verdict.verdict, **(tags or {})}
    registered = register(tracking_uri, config, recorded, record, store, bundle.path, shown)
    version = registered.version
    write_lineage(store, recorded.model_copy(update={"model_version": version}))
    candidate = candidate.model_copy(update={"model_version": version})
    record_candidate(store, candidate)
    note(f"registered as {config.model_name} version {version} (alias challenger).")
    found = standing(store, lineage.bundle_digest)
    waits_for = _waits_for(store, candidate, found)
    return {
        "model_version": version,
        "model_name": config.model_name,
        "bundle_location": lineage.bundle_location,
        "experiment": registered.run.experiment_id,
        "next": "wait" if waits_for else "release",
        "waits_for": waits_for,
        "state": found.state,
        "approvable": f"{config.model_name}/{version}" if candidate.waits and not candidate.final_holds else "",
    }


def student_tags(verdict: GateVerdict) -> dict[str, str]:
    """What MLflow shows of a student's comparison with its teacher."""
    rule = next(rule for rule in verdict.rules if rule.rule == TEACHER_COMPARISON)
    return {"comparison": rule.sentence, "margin": str(-(rule.bound or 0.0))}


def _waits_for(store: ObjectStore, candidate: Candidate, found: Standing) -> str:
    """Why a candidate is not released by the run that registers it, as a sentence; empty if it is."""
    named = f"version {candidate.model_version} of {candidate.model_name}"
    if found.state == "rejected" and found.decision is not None:
        return f"{found.decision.by} rejected {named}: {found.decision.reason}"
    if found.state == "waiting" and candidate.final_holds:
        return f"The model is registered as {named}, which the profile lets nobody approve."
    if found.state == "waiting":
        return f"The model is registered as {named} and waits for approval."
    if candidate.waits and read_champion(store).digest != candidate.bundle_digest:
        return f"The model is {named}, which was released before: `mistere promote` makes it the champion again."
    if candidate.verdict == "hold":
        return f"The model is {named}, the champion."
    return ""
