"""The KFP component ``evaluate_model``, for the modalities of a run."""

from kfp import dsl
from kfp.dsl import ClassificationMetrics, Input, Metrics, Output

from mistere.artifacts.kfp_types import (
    EmbeddingSetArtifact,
    EncoderCheckpointArtifact,
    EvaluationReportArtifact,
    MoEModelArtifact,
    UtteranceSetArtifact,
)
from mistere.engine.modality_template import for_modalities
from mistere.kubernetes.images import image


@for_modalities(dsl.component(base_image=image("train"), install_kfp_package=False))
def evaluate_model(
    run: dict,
    evaluation: dict,
    champion_digest: str,
    anchor_digest: str,
    utterances: Input[UtteranceSetArtifact],
    MODALITY_vectors: Input[EmbeddingSetArtifact],
    MODALITY_encoder: Input[EncoderCheckpointArtifact],
    model: Input[MoEModelArtifact],
    report: Output[EvaluationReportArtifact],
    metrics: Output[Metrics],
    confusion: Output[ClassificationMetrics],
):
    """Evaluate the mixture on the test split.

    Args:
        run: the run's context.
        evaluation: the ``evaluation`` section.
        champion_digest: the champion's bundle, or ``none``.
        anchor_digest: the bundle of the gate's anchor, or ``none``.
        utterances: the dataset.
        MODALITY_vectors: vectors of this modality, or their absence.
        MODALITY_encoder: what made them, or its absence.
        model: the mixture.
        report: metrics and predictions.
        metrics: the main metrics, for the user interface of Kubeflow Pipelines.
        confusion: the confusion matrix, for the same.
    """
    from components.evaluate_model.headline import show
    from components.evaluate_model.run import STAGE
    from mistere.engine.execution import execute

    vectors = {
        "MODALITY": MODALITY_vectors.path,
    }
    encoders = {
        "MODALITY": MODALITY_encoder.path,
    }
    inputs = {"utterances": utterances.path, "vectors": vectors, "encoders": encoders, "model": model.path}
    execute(
        STAGE,
        run,
        evaluation,
        inputs=inputs,
        outputs={"report": report.path},
        external_inputs={"champion_digest": champion_digest, "anchor_digest": anchor_digest},
    )
    show(report.path, metrics, confusion)
