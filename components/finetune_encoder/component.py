"""The KFP component ``finetune_encoder``."""

from kfp import dsl
from kfp.dsl import Input, Output

from mistere.artifacts.kfp_types import EncoderCheckpointArtifact, UtteranceSetArtifact
from mistere.kubernetes.images import image


@dsl.component(base_image=image("train"), install_kfp_package=False)
def finetune_encoder(
    run: dict,
    config: dict,
    modality: str,
    utterances: Input[UtteranceSetArtifact],
    encoder: Output[EncoderCheckpointArtifact],
):
    """Fine-tune one modality's encoder.

    Args:
        run: the run's context.
        config: the modality's section.
        modality: ``speech`` or ``text``.
        utterances: the dataset.
        encoder: the fine-tuned encoder, or its absence.
    """
    from components.finetune_encoder.run import STAGE
    from mistere.engine.execution import execute

    execute(
        STAGE,
        run,
        config,
        inputs={"utterances": utterances.path},
        outputs={"encoder": encoder.path},
        modality=modality,
    )
