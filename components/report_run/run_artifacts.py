"""The artifacts that the report shows, and a sentence for each one that cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mistere.artifacts.io import open_artifact, read_manifest
from mistere.artifacts.manifest import Manifest
from mistere.artifacts.manifests import (
    EncoderCheckpoint,
    EvaluationReport,
    GateVerdict,
    MoEModel,
    UtteranceSet,
    ValidationReport,
)
from mistere.artifacts.object_store import ObjectStore
from mistere.common.errors import MistereError
from mistere.evaluation.gate_timeline import TIMELINES_FILE, GateTimeline, read_timelines
from mistere.metrics.predictions import PREDICTIONS_FILE, Predictions, read_predictions
from mistere.registry.release.champion import read_champion
from mistere.runs.outcome import Outcome, read_run_info, report_key

M = TypeVar("M", bound=Manifest)
T = TypeVar("T")


@dataclass
class RunArtifacts:
    """Everything that the report shows; None or empty if it was not reached or cannot be read."""

    info: dict[str, Any]
    data: UtteranceSet | None = None
    validation: ValidationReport | None = None
    encoders: list[EncoderCheckpoint] = field(default_factory=list)
    mixture: MoEModel | None = None
    evaluation: EvaluationReport | None = None
    gate: GateVerdict | None = None
    predictions: Predictions | None = None
    timelines: list[GateTimeline] = field(default_factory=list)
    manifests: list[Manifest] = field(default_factory=list)
    has_validation_page: bool = False
    champion_now: str = ""
    unreadable: list[str] = field(default_factory=list)


def gather(store: ObjectStore, outcome: Outcome) -> RunArtifacts:
    """Read the artifacts of a run.

    Args:
        store: the object store.
        outcome: of the run, with the records of its stages.
    """
    artifacts = RunArtifacts(info={}, unreadable=list(outcome.unreadable))
    try:
        artifacts.info = read_run_info(store, outcome.run_id)
    except MistereError as error:
        artifacts.unreadable.append(str(error))
    artifacts.data = _manifest(store, outcome, artifacts, UtteranceSet, "pull_data", "utterances")
    artifacts.validation = _manifest(store, outcome, artifacts, ValidationReport, "validate_data", "report")
    for modality in outcome.modalities:
        encoder = _manifest(store, outcome, artifacts, EncoderCheckpoint, f"finetune_encoder-{modality}", "encoder")
        if encoder is not None:
            artifacts.encoders.append(encoder)
    artifacts.mixture = _manifest(store, outcome, artifacts, MoEModel, "train_moe", "model")
    artifacts.evaluation = _manifest(store, outcome, artifacts, EvaluationReport, "evaluate_model", "report")
    artifacts.gate = _manifest(store, outcome, artifacts, GateVerdict, "gate_model", "verdict")
    if artifacts.evaluation is not None:
        _read_evaluation(store, artifacts.evaluation, artifacts)
    try:
        champion = read_champion(store).champion
        artifacts.champion_now = champion.bundle_digest if champion else ""
    except MistereError as error:
        artifacts.unreadable.append(str(error))
    artifacts.has_validation_page = store.exists(report_key(outcome.run_id, "validation_report.html"))
    artifacts.unreadable = list(dict.fromkeys(artifacts.unreadable))
    return artifacts


def _manifest(
    store: ObjectStore, outcome: Outcome, artifacts: RunArtifacts, cls: type[M], task: str, name: str
) -> M | None:
    record = outcome.finished(task)
    digest = record.outputs.get(name, "") if record else ""
    if not digest:
        return None
    try:
        manifest = read_manifest(store, cls, digest)
    except MistereError as error:
        artifacts.unreadable.append(str(error))
        return None
    artifacts.manifests.append(manifest)
    return manifest


def _read_evaluation(store: ObjectStore, evaluation: EvaluationReport, artifacts: RunArtifacts) -> None:
    """Read the predictions and timelines, if the evaluation has them."""
    try:
        opened = open_artifact(store, EvaluationReport, evaluation.digest)
    except MistereError as error:
        artifacts.unreadable.append(str(error))
        return
    if PREDICTIONS_FILE in evaluation.files:
        artifacts.predictions = _file(
            lambda: read_predictions(opened.file(PREDICTIONS_FILE)), PREDICTIONS_FILE, artifacts
        )
    if TIMELINES_FILE in evaluation.files:
        artifacts.timelines = (
            _file(lambda: read_timelines(opened.file(TIMELINES_FILE)), TIMELINES_FILE, artifacts) or []
        )


def _file(read: Callable[[], T], name: str, artifacts: RunArtifacts) -> T | None:
    try:
        return read()
    except (OSError, ValueError, KeyError, IndexError) as error:  # errors of pyarrow for an invalid file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        artifacts.unreadable.append(f"{name} of the evaluation cannot be read ({reason}).")
        return None
