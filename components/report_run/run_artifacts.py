"""What the report is made of: every artifact of the run that can be opened, and a sentence for each that cannot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from mistere.artifacts.io import open_artifact
from mistere.artifacts.manifests import (
    EncoderCheckpoint,
    EvaluationReport,
    GateVerdict,
    Manifest,
    MoEModel,
    UtteranceSet,
    ValidationReport,
)
from mistere.artifacts.object_store import ObjectStore
from mistere.common.errors import MistereError
from mistere.evaluation.gate_timeline import TIMELINES_FILE, GateTimeline, read_timelines
from mistere.metrics.predictions import PREDICTIONS_FILE, Predictions, read_predictions
from mistere.registry.champion import read_champion
from mistere.runs.outcome import Outcome, read_manifest, read_run_info, report_key

M = TypeVar("M", bound=Manifest)
T = TypeVar("T")


@dataclass
class RunArtifacts:
    """Everything the report shows; what is None or empty was not reached or could not be opened."""

    info: dict[str, Any]
    data: UtteranceSet | None = None
    validation: ValidationReport | None = None
    encoders: list[EncoderCheckpoint] = field(default_factory=list)
    mixture: MoEModel | None = None
    evaluation: EvaluationReport | None = None
    gate: GateVerdict | None = None
    predictions: Predictions | None = None
    timelines: list[GateTimeline] = field(default_factory=list)
    artifacts: list[Manifest] = field(default_factory=list)
    has_validation_page: bool = False
    champion_now: str = ""
    unreadable: list[str] = field(default_factory=list)


def gather(store: ObjectStore, outcome: Outcome) -> RunArtifacts:
    """Open what the run left behind.

    Args:
        store: the object store.
        outcome: how the run ended, with its stages' records.
    """
    found = RunArtifacts(info=read_run_info(store, outcome.run_id), unreadable=list(outcome.unreadable))
    found.data = _manifest(store, outcome, found, UtteranceSet, "pull_data", "utterances")
    found.validation = _manifest(store, outcome, found, ValidationReport, "validate_data", "report")
    for modality in ("speech", "text"):
        encoder = _manifest(store, outcome, found, EncoderCheckpoint, f"finetune_encoder-{modality}", "encoder")
        if encoder is not None:
            found.encoders.append(encoder)
    found.mixture = _manifest(store, outcome, found, MoEModel, "train_moe", "model")
    found.evaluation = _manifest(store, outcome, found, EvaluationReport, "evaluate_model", "report")
    found.gate = _manifest(store, outcome, found, GateVerdict, "gate_model", "verdict")
    if found.evaluation is not None:
        _read_evaluation(store, found.evaluation, found)
    try:
        champion = read_champion(store).champion
        found.champion_now = champion.bundle_digest if champion else ""
    except MistereError as error:
        found.unreadable.append(str(error))
    found.has_validation_page = store.exists(report_key(outcome.run_id, "validation_report.html"))
    found.unreadable = list(dict.fromkeys(found.unreadable))
    return found


def _manifest(
    store: ObjectStore, outcome: Outcome, found: RunArtifacts, cls: type[M], task: str, name: str
) -> M | None:
    record = outcome.finished(task)
    digest = record.outputs.get(name, "") if record else ""
    if not digest:
        return None
    try:
        manifest = read_manifest(store, cls, digest)
    except MistereError as error:
        found.unreadable.append(str(error))
        return None
    found.artifacts.append(manifest)
    return manifest


def _read_evaluation(store: ObjectStore, evaluation: EvaluationReport, found: RunArtifacts) -> None:
    """Predictions and timelines, of those that the evaluation has."""
    try:
        opened = open_artifact(store, EvaluationReport, evaluation.digest)
    except MistereError as error:
        found.unreadable.append(str(error))
        return
    if PREDICTIONS_FILE in evaluation.files:
        found.predictions = _file(lambda: read_predictions(opened.file(PREDICTIONS_FILE)), PREDICTIONS_FILE, found)
    if TIMELINES_FILE in evaluation.files:
        found.timelines = _file(lambda: read_timelines(opened.file(TIMELINES_FILE)), TIMELINES_FILE, found) or []


def _file(read: Callable[[], T], name: str, found: RunArtifacts) -> T | None:
    try:
        return read()
    except (OSError, ValueError, KeyError, IndexError) as error:  # what pyarrow raises for a file that is no such table
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        found.unreadable.append(f"{name} of the evaluation cannot be read ({reason}).")
        return None
