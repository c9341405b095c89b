"""Predictions of the champion and of the anchor on this test split, for the gate's paired comparisons.

They come from the model's own report if it is of the same test split, otherwise from running its bundle on the raw utterances.
Predictions on another split are never used.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from mistere.metrics.predictions import ANCHOR_FILE, CHAMPION_FILE, PREDICTIONS_FILE, read_predictions
from mistere.metrics.slices import slice_differences
from mistere.registry.lineage import read_lineage
from mistere.registry.release.champion import read_champion

if TYPE_CHECKING:
    from mistere.model.dialogue_prediction import DialoguePrediction


@dataclass(frozen=True)
class Baseline:
    """An earlier model that a candidate is compared with.

    Attributes:
        name: ``champion`` or ``anchor``; begins the names of its metrics.
        file: of its predictions in the report.
        digest: digest of its bundle.
    """

    name: str
    file: str
    digest: str

    @classmethod
    def champion(cls, digest: str) -> Baseline:
        """The champion."""
        return cls("champion", CHAMPION_FILE, digest)

    @classmethod
    def anchor(cls, digest: str) -> Baseline:
        """The anchor of the gate."""
        return cls("anchor", ANCHOR_FILE, digest)


def evaluate_baseline(
    step: Step,
    reference: UtteranceSet,
    baseline: Baseline,
    labels: Sequence[np.ndarray],
    names: Sequence[str],
    report: Path,
) -> ChampionEvaluation:
    """Write the model's predictions into the report, or return why they cannot be compared.

    Args:
        step: this execution.
        reference: the dataset.
        baseline: the earlier model.
        labels: classes ``[n]`` of each test dialogue.
        names: names of the test dialogues.
        report: folder of the output artifact.
    """
    known = earlier_predictions(step.store, step.progress, baseline, reference.test_digest, report)
    if known is not None:
        return known
    bundle = open_artifact(step.store, ModelBundle, baseline.digest)
    why = ""
    if bundle.manifest.labels != reference.labels:
        why = "it has other labels than this dataset"
    elif bundle.manifest.vectors:
        why = "it takes vectors and was evaluated on another test split"
    if why:
        step.progress.note(f"the {baseline.name} cannot be compared: {why}.")
        return ChampionEvaluation(bundle_digest=baseline.digest, incomparable=why)
    write_predictions(report / baseline.file, _run_bundle(step, reference, baseline, names), labels, names)
    return ChampionEvaluation(bundle_digest=baseline.digest, test_digest=reference.test_digest)


def earlier_predictions(
    store: ObjectStore, progress: Progress, baseline: Baseline, test_digest: str, report: Path
) -> ChampionEvaluation | None:
    """Copy the model's predictions into the report from its own one; None if that is not of this test split.

    Args:
        store: the object store.
        progress: receives why the model's own report cannot be read.
        baseline: the earlier model.
        test_digest: identifies the test split.
        report: folder of the output artifact.
    """
    try:
        before = open_artifact(store, EvaluationReport, _evaluation_of(store, baseline.digest))
    except ArtifactError as error:
        progress.note(f"{error} The {baseline.name} is evaluated again.")
        return None
    if before.manifest.test_digest != test_digest:
        return None
    shutil.copyfile(before.file(PREDICTIONS_FILE), report / baseline.file)
    return ChampionEvaluation(bundle_digest=baseline.digest, test_digest=test_digest)


def _evaluation_of(store: ObjectStore, digest: str) -> str:
    """Digest of the report that a registered model was released with, or else made with."""
    champion = read_champion(store).champion
    if champion is not None and champion.bundle_digest == digest:
        return champion.evaluation_digest
    return read_lineage(store, digest).evaluation_digest


def compare_with(baseline: Baseline, report: Path, classes: int, config: EvaluationConfig) -> dict[str, float]:
    """The model's metrics on this split and the paired differences of the candidate to it, over dialogues.

    Args:
        baseline: the earlier model.
        report: folder with both files of predictions.
        classes: number of labels.
        config: resamples and seed.

    Returns:
        Of the champion: ``champion.weighted_f1``, ``champion.difference.weighted_f1``, ``champion.difference.macro_f1``, each with
        ``.low`` and ``.high``, and ``champion.disagreement``, the share of utterances that only one of them predicts correctly. Of
        the anchor the same, as ``anchor.…``.
    """
    candidate, other = read_predictions(report / PREDICTIONS_FILE), read_predictions(report / baseline.file)
    name = baseline.name
    if not candidate.same_test(other):
        raise ArtifactError(
            f"the {name}'s predictions are not of the utterances of this test split, although the digests agree: "
            f"delete the {name}'s EvaluationReport from the store and run again to evaluate it again."
        )
    bootstrap = DialogueBootstrap(candidate.dialogues, config.resamples, config.seed)
    true, predicted, before = candidate.labels, candidate.predicted, other.predicted
    metrics: dict[str, float] = {}
    put(metrics, f"{name}.weighted_f1", bootstrap.weighted_f1(true, before, classes))
    difference = bootstrap.weighted_f1_difference(true, predicted, before, classes)
    put(metrics, f"{name}.difference.weighted_f1", difference)
    macro = bootstrap.differences(macro_f1, true, predicted, before, classes)[0]
    put(metrics, f"{name}.difference.macro_f1", macro)
    metrics[f"{name}.disagreement"] = float(((predicted == true) != (before == true)).mean())
    return rounded(metrics)


def compare_slices(
    report: Path, parts: Mapping[str, Sequence[str | None]], classes: int, config: EvaluationConfig
) -> dict[str, float]:
    """The paired difference of the candidate to the champion in each slice of the test split.

    Args:
        report: folder with both files of predictions.
        parts: the slice of each utterance in them, by kind of slice.
        classes: number of labels.
        config: resamples and seed.
    """
    candidate, champion = read_predictions(report / PREDICTIONS_FILE), read_predictions(report / CHAMPION_FILE)
    predicted = candidate.predicted, champion.predicted
    return slice_differences(parts, candidate.labels, *predicted, candidate.dialogues, classes, config)


def _run_bundle(
    step: Step, reference: UtteranceSet, baseline: Baseline, names: Sequence[str]
) -> list[DialoguePrediction]:
    """The model's predictions in the order of ``names``."""
    from mistere.data.utterances import UtteranceReader
    from mistere.model.inference import load_bundle

    model = load_bundle(step.store.location(artifact_key(ModelBundle.__name__, baseline.digest)))
    known = reference.transcription.model if reference.transcription else None
    if known is not None and known != model.bundle.transcription:  # it reads its own transcripts, or none
        reference = reference.model_copy(update={"transcription": None})
    answers: dict[str, DialoguePrediction] = {}
    for dialogue in UtteranceReader(reference, ("test",), store=step.store).dialogues("test"):
        answers[dialogue[0].dialogue_id] = model.predict([dialogue])[0]
        step.progress(f"running the {baseline.name} on this test split", len(answers), reference.dialogues["test"])
    return [answers[name] for name in names]
