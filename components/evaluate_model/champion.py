"""Predictions of the champion on this test split, for the gate's paired comparison.

They come from the champion's own report if it is of the same test split, otherwise from running its bundle on the raw
utterances. Predictions on another split are never used.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mistere.artifacts.io import artifact_key, open_artifact
from mistere.artifacts.manifests import ChampionEvaluation, EvaluationReport, ModelBundle, UtteranceSet
from mistere.artifacts.object_store import ObjectStore
from mistere.common.errors import ArtifactError
from mistere.common.progress import Progress
from mistere.config.evaluation import EvaluationConfig
from mistere.engine.stage import Step
from mistere.evaluation.split_metrics import put, rounded, write_predictions
from mistere.metrics.classification import DialogueBootstrap, macro_f1
from mistere.metrics.predictions import CHAMPION_FILE, PREDICTIONS_FILE, read_predictions
from mistere.registry.release.champion import read_champion

if TYPE_CHECKING:
    from mistere.model.mixture.prediction import DialoguePrediction


def evaluate_champion(
    step: Step, reference: UtteranceSet, digest: str, labels: Sequence[np.ndarray], names: Sequence[str], report: Path
) -> ChampionEvaluation:
    """Write the champion's predictions as ``champion.parquet``, or return why they cannot be compared.

    Args:
        step: this execution.
        reference: the dataset.
        digest: digest of the champion's bundle.
        labels: classes ``[n]`` of each test dialogue.
        names: names of the test dialogues.
        report: folder of the output artifact.
    """
    known = earlier_predictions(step.store, step.progress, digest, reference.test_digest, report)
    if known is not None:
        return known
    bundle = open_artifact(step.store, ModelBundle, digest)
    why = ""
    if bundle.manifest.labels != reference.labels:
        why = "it has other labels than this dataset"
    elif bundle.manifest.vectors:
        why = "it takes vectors and was evaluated on another test split"
    if why:
        step.progress.note(f"the champion cannot be compared: {why}.")
        return ChampionEvaluation(bundle_digest=digest, incomparable=why)
    write_predictions(report / CHAMPION_FILE, _run_bundle(step, reference, digest, names), labels, names)
    return ChampionEvaluation(bundle_digest=digest, test_digest=reference.test_digest)


def earlier_predictions(
    store: ObjectStore, progress: Progress, digest: str, test_digest: str, report: Path
) -> ChampionEvaluation | None:
    """Copy the champion's predictions as ``champion.parquet`` from its own report; None if that is not of this test split.

    Args:
        store: the object store.
        progress: receives why the report cannot be read.
        digest: digest of the champion's bundle.
        test_digest: identifies the test split.
        report: folder of the output artifact.
    """
    champion = read_champion(store).champion
    if champion is None or champion.bundle_digest != digest:
        return None
    try:
        before = open_artifact(store, EvaluationReport, champion.evaluation_digest)
    except ArtifactError as error:
        progress.note(f"{error} The champion is evaluated again.")
        return None
    if before.manifest.test_digest != test_digest:
        return None
    shutil.copyfile(before.file(PREDICTIONS_FILE), report / CHAMPION_FILE)
    return ChampionEvaluation(bundle_digest=digest, test_digest=test_digest)


def compare_with_champion(report: Path, classes: int, config: EvaluationConfig) -> dict[str, float]:
    """The champion's metrics on this split and the paired differences of the candidate to it, over dialogues.

    Args:
        report: folder with both files of predictions.
        classes: number of labels.
        config: resamples and seed.

    Returns:
        ``champion.weighted_f1``, ``champion.difference.weighted_f1``, ``champion.difference.macro_f1``, each with ``.low`` and
        ``.high``, and ``champion.disagreement``, the share of utterances that only one of them predicts correctly.
    """
    candidate, champion = read_predictions(report / PREDICTIONS_FILE), read_predictions(report / CHAMPION_FILE)
    if not candidate.same_test(champion):
        raise ArtifactError(
            "the champion's predictions are not of the utterances of this test split, although the digests agree: "
            "delete the champion's EvaluationReport from the store and run again to evaluate it again."
        )
    bootstrap = DialogueBootstrap(candidate.dialogues, config.resamples, config.seed)
    true, candidate_predicted, champion_predicted = candidate.labels, candidate.predicted, champion.predicted
    metrics: dict[str, float] = {}
    put(metrics, "champion.weighted_f1", bootstrap.weighted_f1(true, champion_predicted, classes))
    put(
        metrics,
        "champion.difference.weighted_f1",
        bootstrap.weighted_f1_difference(true, candidate_predicted, champion_predicted, classes),
    )
    put(
        metrics,
        "champion.difference.macro_f1",
        bootstrap.differences(macro_f1, true, candidate_predicted, champion_predicted, classes)[0],
    )
    metrics["champion.disagreement"] = float(((candidate_predicted == true) != (champion_predicted == true)).mean())
    return rounded(metrics)


def _run_bundle(step: Step, reference: UtteranceSet, digest: str, names: Sequence[str]) -> list[DialoguePrediction]:
    """The champion's predictions in the order of ``names``."""
    from mistere.data.utterances import UtteranceReader
    from mistere.model.inference import load_bundle

    model = load_bundle(step.store.location(artifact_key(ModelBundle.__name__, digest)))
    known = reference.transcription.model if reference.transcription else None
    if known is not None and known != model.bundle.transcription:  # it reads its own transcripts, or none
        reference = reference.model_copy(update={"transcription": None})
    answers: dict[str, DialoguePrediction] = {}
    for dialogue in UtteranceReader(reference, ("test",), store=step.store).dialogues("test"):
        answers[dialogue[0].dialogue_id] = model.predict([dialogue])[0]
        step.progress("running the champion on this test split", len(answers), reference.dialogues["test"])
    return [answers[name] for name in names]
