"""The KFP face of ``evaluate_model``."""

from kfp import dsl
from kfp.dsl import ClassificationMetrics, Input, Metrics, Output

from components.core.artifacts import EmbeddingSet, EncoderCheckpoint, EvaluationReport, MoEModel, UtteranceSet
from components.core.images import image


@dsl.component(base_image=image("train"), install_kfp_package=False)
def evaluate_model(
    run: dict,
    evaluation: dict,
    champion_digest: str,
    utterances: Input[UtteranceSet],
    speech: Input[EmbeddingSet],
    text: Input[EmbeddingSet],
    speech_encoder: Input[EncoderCheckpoint],
    text_encoder: Input[EncoderCheckpoint],
    model: Input[MoEModel],
    report: Output[EvaluationReport],
    metrics: Output[Metrics],
    confusion: Output[ClassificationMetrics],
):
    """Evaluate on the test split, once.

    Args:
        run: the run's context.
        evaluation: the ``evaluation`` section.
        champion_digest: the champion's bundle, or ``none``.
        utterances: the dataset.
        speech: speech vectors.
        text: text vectors.
        speech_encoder: what made them, or its absence.
        text_encoder: likewise.
        model: the mixture.
        report: figures and predictions.
        metrics: the main figures, for the user interface of Kubeflow Pipelines.
        confusion: the confusion matrix, for the same.
    """
    from components.core.steps import execute
    from components.evaluate_model.headline import show
    from components.evaluate_model.run import STAGE

    inputs = {
        "utterances": utterances.path,
        "speech": speech.path,
        "text": text.path,
        "speech_encoder": speech_encoder.path,
        "text_encoder": text_encoder.path,
        "model": model.path,
    }
    execute(
        STAGE,
        run,
        evaluation,
        inputs=inputs,
        outputs={"report": report.path},
        world={"champion_digest": champion_digest},
    )
    show(report.path, metrics, confusion)
