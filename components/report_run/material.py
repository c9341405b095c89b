"""What the report is made of: every artifact of the run that can be opened, and a sentence for each that cannot."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from components.core.artifact_io import open_artifact
from components.core.champion import read_champion
from components.core.errors import MistereError
from components.core.manifests import (
    EncoderCheckpoint,
    EvaluationReport,
    GateVerdict,
    Manifest,
    MoEModel,
    UtteranceSet,
    ValidationReport,
)
from components.core.outcome import Outcome, read_manifest, read_run_info, report_key
from components.core.store import ObjectStore

M = TypeVar("M", bound=Manifest)
PREDICTIONS_FILE = "predictions.parquet"
_ROWS = 8192
_TURNS = range(4, 17)


@dataclass(frozen=True)
class ExampleDialogue:
    """The gate at work in one test dialogue: ``weights [T, E]``, true and predicted label of each turn."""

    name: str
    turns: list[int]
    true: list[str]
    predicted: list[str]
    weights: np.ndarray
    modalities: list[str]


@dataclass
class Material:
    """Everything the report shows; what is None or empty was not reached or could not be opened."""

    info: dict[str, Any]
    data: UtteranceSet | None = None
    validation: ValidationReport | None = None
    encoders: list[EncoderCheckpoint] = field(default_factory=list)
    mixture: MoEModel | None = None
    evaluation: EvaluationReport | None = None
    gate: GateVerdict | None = None
    examples: list[ExampleDialogue] = field(default_factory=list)
    artifacts: list[Manifest] = field(default_factory=list)
    has_validation_page: bool = False
    champion_now: str = ""
    unreadable: list[str] = field(default_factory=list)


def gather(store: ObjectStore, outcome: Outcome) -> Material:
    """Open what the run left behind.

    Args:
        store: the object store.
        outcome: how the run ended, with its stages' records.
    """
    found = Material(info=read_run_info(store, outcome.run_id), unreadable=list(outcome.unreadable))
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
        found.examples = _examples(store, found.evaluation, found)
    try:
        champion = read_champion(store).champion
        found.champion_now = champion.bundle_digest if champion else ""
    except MistereError as error:
        found.unreadable.append(str(error))
    found.has_validation_page = store.exists(report_key(outcome.run_id, "validation_report.html"))
    found.unreadable = list(dict.fromkeys(found.unreadable))
    return found


def _manifest(store: ObjectStore, outcome: Outcome, found: Material, cls: type[M], task: str, name: str) -> M | None:
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


def _examples(store: ObjectStore, evaluation: EvaluationReport, found: Material) -> list[ExampleDialogue]:
    if len(evaluation.experts) < 2:
        return []
    try:
        return example_dialogues(store, evaluation)
    except MistereError as error:
        found.unreadable.append(str(error))
    except (OSError, ValueError, KeyError, IndexError) as error:  # what pyarrow raises for a file that is no such table
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        found.unreadable.append(f"{PREDICTIONS_FILE} of the evaluation cannot be read ({reason}).")
    return []


def example_dialogues(store: ObjectStore, evaluation: EvaluationReport, count: int = 2) -> list[ExampleDialogue]:
    """The test dialogues of a readable length in which the gate's weights move most.

    Args:
        store: the object store.
        evaluation: whose predictions.
        count: how many at most.
    """
    import pyarrow.parquet as pq

    path = open_artifact(store, EvaluationReport, evaluation.digest).file(PREDICTIONS_FILE)
    columns = ["dialogue_id", "turn", "label", "probabilities", "expert_weights", "modalities"]
    with pq.ParquetFile(path) as file:
        whole = file.metadata.num_rows <= _ROWS
        batch = next(file.iter_batches(batch_size=_ROWS, columns=columns), None)
    if batch is None:
        return []
    dialogues: dict[str, list[dict[str, Any]]] = {}
    for row in batch.to_pylist():
        dialogues.setdefault(str(row["dialogue_id"]), []).append(row)
    if not whole and len(dialogues) > 1:
        dialogues.popitem()  # cut off by the batch
    known = [_example(name, rows, evaluation.labels) for name, rows in dialogues.items()]
    readable = [dialogue for dialogue in known if len(dialogue.turns) in _TURNS] or known
    readable.sort(key=lambda dialogue: -float(dialogue.weights.std(axis=0).sum()))
    return readable[:count]


def _example(name: str, rows: list[dict[str, Any]], labels: list[str]) -> ExampleDialogue:
    rows = sorted(rows, key=lambda row: int(row["turn"]))[: _TURNS.stop]
    return ExampleDialogue(
        name=name,
        turns=[int(row["turn"]) for row in rows],
        true=[labels[row["label"]] for row in rows],
        predicted=[labels[int(np.argmax(row["probabilities"]))] for row in rows],
        weights=np.array([row["expert_weights"] for row in rows], dtype=np.float64),
        modalities=[str(row["modalities"]) for row in rows],
    )
