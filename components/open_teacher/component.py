"""The KFP component ``open_teacher``, for the modalities of a run."""

from kfp import dsl
from kfp.dsl import Input, Output

from mistere.artifacts.kfp_types import EncoderCheckpointArtifact, MoEModelArtifact, UtteranceSetArtifact
from mistere.engine.modality_template import for_modalities
from mistere.kubernetes.images import image


@for_modalities(dsl.component(base_image=image("train"), install_kfp_package=False))
def open_teacher(
    run: dict,
    distillation: dict,
    teacher_digest: str,
    utterances: Input[UtteranceSetArtifact],
    model: Output[MoEModelArtifact],
    MODALITY_encoder: Output[EncoderCheckpointArtifact],
):
    """Check that the dataset suits the teacher, and take the teacher apart.

    Args:
        run: the run's context.
        distillation: the ``distillation`` section.
        teacher_digest: the teacher's bundle.
        utterances: the dataset.
        model: the teacher's mixture.
        MODALITY_encoder: its encoder of this modality, or its absence.
    """
    from components.open_teacher.run import STAGE, write_encoders
    from mistere.engine.execution import execute

    encoders = {
        "MODALITY": MODALITY_encoder.path,
    }
    values = execute(
        STAGE,
        run,
        distillation,
        inputs={"utterances": utterances.path},
        outputs={"model": model.path},
        external_inputs={"teacher_digest": teacher_digest},
    )
    write_encoders(run, values["encoders"], encoders)
