"""The KFP component ``distill_encoder``."""

from kfp import dsl
from kfp.dsl import Input, Output

from mistere.artifacts.kfp_types import EmbeddingSetArtifact, EncoderCheckpointArtifact, UtteranceSetArtifact
from mistere.kubernetes.images import image


@dsl.component(base_image=image("train"), install_kfp_package=False)
def distill_encoder(
    run: dict,
    config: dict,
    modality: str,
    utterances: Input[UtteranceSetArtifact],
    teacher: Input[EncoderCheckpointArtifact],
    vectors: Input[EmbeddingSetArtifact],
    encoder: Output[EncoderCheckpointArtifact],
):
    """Train a small encoder on the vectors and probabilities of a larger one.

    Args:
        run: the run's context.
        config: the ``distillation`` section.
        modality: the encoders' modality.
        utterances: the dataset.
        teacher: the larger encoder.
        vectors: the teacher's vectors of the dataset.
        encoder: the small encoder, or its absence.
    """
    from components.distill_encoder.run import STAGE
    from mistere.engine.execution import execute

    execute(
        STAGE,
        run,
        config,
        inputs={"utterances": utterances.path, "teacher": teacher.path, "vectors": vectors.path},
        outputs={"encoder": encoder.path},
        modality=modality,
    )
