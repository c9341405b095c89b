"""The KFP face of ``register_model``."""

from kfp import dsl
from kfp.dsl import Input, Output

from mistere.artifacts.kfp_types import (
    DataProfileArtifact,
    EncoderCheckpointArtifact,
    EvaluationReportArtifact,
    GateVerdictArtifact,
    ModelBundleArtifact,
    MoEModelArtifact,
    UtteranceSetArtifact,
)
from mistere.kubernetes.images import image


@dsl.component(base_image=image("pipeline"), install_kfp_package=False)
def register_model(
    run: dict,
    registry: dict,
    utterances: Input[UtteranceSetArtifact],
    profile: Input[DataProfileArtifact],
    speech: Input[EncoderCheckpointArtifact],
    text: Input[EncoderCheckpointArtifact],
    model: Input[MoEModelArtifact],
    report: Input[EvaluationReportArtifact],
    verdict: Input[GateVerdictArtifact],
    bundle: Output[ModelBundleArtifact],
) -> str:
    """Put the bundle into the store and a model version into MLflow.

    Args:
        run: the run's context.
        registry: the ``registry`` section.
        utterances: the dataset.
        profile: the dataset in numbers.
        speech: the speech encoder.
        text: the text encoder.
        model: the mixture.
        report: the evaluation.
        verdict: the gate's verdict.
        bundle: all that the predictor needs.

    Returns:
        the version in the registry.
    """
    from components.register_model.run import STAGE
    from mistere.engine.execution import execute

    inputs = {
        "utterances": utterances.path,
        "profile": profile.path,
        "speech": speech.path,
        "text": text.path,
        "model": model.path,
        "report": report.path,
        "verdict": verdict.path,
    }
    values = execute(STAGE, run, registry, inputs=inputs, outputs={"bundle": bundle.path})
    return values["model_version"]
