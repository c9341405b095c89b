"""The KFP face of ``finetune_encoder``."""

from kfp import dsl
from kfp.dsl import Input, Output

from components.core.artifacts import EncoderCheckpoint, UtteranceSet
from components.core.images import image


@dsl.component(base_image=image("train"), install_kfp_package=False)
def finetune_encoder(
    run: dict,
    settings: dict,
    modality: str,
    utterances: Input[UtteranceSet],
    encoder: Output[EncoderCheckpoint],
):
    """Fine-tune one modality's encoder.

    Args:
        run: the run's context.
        settings: the modality's section.
        modality: ``speech`` or ``text``.
        utterances: the dataset.
        encoder: the fine-tuned encoder, or its absence.
    """
    from components.core.steps import execute
    from components.finetune_encoder.run import STAGE

    execute(
        STAGE,
        run,
        settings,
        inputs={"utterances": utterances.path},
        outputs={"encoder": encoder.path},
        modality=modality,
    )
