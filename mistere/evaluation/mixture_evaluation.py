"""A mixture on the test split of its embeddings: predictions, and the metrics that need nothing but them.

The pipeline, ``mistere train`` and ``mistere register`` evaluate with this function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mistere.config.evaluation import EvaluationConfig
from mistere.evaluation.missing_modality import expected_absence, missing_modality_curve
from mistere.evaluation.split_metrics import measure
from mistere.metrics.missing_curve import curve_metrics
from mistere.model.embeddings import EmbeddedDialogues
from mistere.model.mixture.prediction import LabelledTurns, predict

if TYPE_CHECKING:
    from mistere.model.dialogue_prediction import DialoguePrediction, Embeddings
    from mistere.model.mixture.mixture import MixtureOfExperts


@dataclass(frozen=True)
class MixtureEvaluation:
    """A mixture's predictions of D test dialogues, and their metrics.

    Attributes:
        names: of the dialogues.
        read: their embeddings.
        labels: classes ``[n]`` of each dialogue; :data:`~mistere.model.embeddings.UNLABELLED` for a context turn.
        answers: the prediction of each whole dialogue.
        scored: those of the N turns that have a label, which all metrics are about.
        metrics: flat metrics of the test split, with the curve of missing modalities.
        confusion: counts ``[C, C]``.
    """

    names: list[str]
    read: Sequence[Embeddings]
    labels: list[np.ndarray]
    answers: list[DialoguePrediction]
    scored: LabelledTurns
    metrics: dict[str, float]
    confusion: np.ndarray


def evaluate_mixture(
    mixture: MixtureOfExperts, temperature: float, data: EmbeddedDialogues, config: EvaluationConfig
) -> MixtureEvaluation:
    """Predict test once and measure it.

    Args:
        mixture: in evaluation mode.
        temperature: its calibration.
        data: embeddings of the mixture's modalities.
        config: resamples and seed.
    """
    test = data.split("test")
    read, labels = [data.read(dialogue) for dialogue in test], [dialogue.labels for dialogue in test]
    names = [dialogue.dialogue_id for dialogue in test]
    answers = predict(mixture, read, temperature)
    scored = LabelledTurns.of(test, answers)
    measured = measure(scored.predictions, scored.labels, names, data.labels, mixture.experts, config)
    curve = missing_modality_curve(mixture, temperature, read, labels, names, len(data.labels), config)
    metrics = measured.metrics | curve_metrics(curve) | expected_absence(mixture, read, labels)
    return MixtureEvaluation(names, read, labels, answers, scored, metrics, measured.confusion)
