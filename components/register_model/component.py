"""The KFP component ``register_model``, for the modalities of a run."""

from typing import NamedTuple

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
from mistere.engine.modality_template import for_modalities
from mistere.kubernetes.images import image


@for_modalities(dsl.component(base_image=image("pipeline"), install_kfp_package=False))
def register_model(
    run: dict,
    registry: dict,
    utterances: Input[UtteranceSetArtifact],
    profile: Input[DataProfileArtifact],
    MODALITY_encoder: Input[EncoderCheckpointArtifact],
    model: Input[MoEModelArtifact],
    report: Input[EvaluationReportArtifact],
    verdict: Input[GateVerdictArtifact],
    bundle: Output[ModelBundleArtifact],
    distillation: dict = {},  # noqa: B006  (KFP reads the signature)
    teacher_digest: str = "",
) -> NamedTuple("Outputs", [("Output", str), ("model_version", str)]):  # type: ignore[valid-type]
    """Publish the bundle and register a model version in MLflow.

    Args:
        run: the run's context.
        registry: the ``registry`` section.
        utterances: the dataset.
        profile: statistics of the dataset.
        MODALITY_encoder: the encoder of this modality, or its absence.
        model: the mixture.
        report: the evaluation.
        verdict: the gate's verdict.
        bundle: everything the predictor needs.
        distillation: the ``distillation`` section, for a student.
        teacher_digest: the bundle that a student learnt from; empty for other models.

    Returns:
        Output: ``release``, or ``wait`` if a person decides.
        model_version: the version in the registry.
    """
    from components.register_model.run import STAGE, teacher_of
    from mistere.engine.execution import execute

    encoders = {
        "MODALITY": MODALITY_encoder.path,
    }
    inputs = {
        "utterances": utterances.path,
        "profile": profile.path,
        "encoders": encoders,
        "model": model.path,
        "report": report.path,
        "verdict": verdict.path,
    }
    external = {"teacher": teacher_of(distillation, teacher_digest)} if teacher_digest else {}
    values = execute(STAGE, run, registry, inputs=inputs, outputs={"bundle": bundle.path}, external_inputs=external)
    return values["next"], values["model_version"]
