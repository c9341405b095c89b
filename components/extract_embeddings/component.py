"""The KFP face of ``extract_embeddings``."""

from kfp import dsl
from kfp.dsl import Input, Output

from components.core.artifacts import EmbeddingSet, EncoderCheckpoint, UtteranceSet
from components.core.images import image


@dsl.component(base_image=image("train"), install_kfp_package=False)
def extract_embeddings(
    run: dict,
    modality: str,
    utterances: Input[UtteranceSet],
    encoder: Input[EncoderCheckpoint],
    embeddings: Output[EmbeddingSet],
):
    """Embed every utterance with a fine-tuned encoder.

    Args:
        run: the run's context.
        modality: ``speech`` or ``text``.
        utterances: the dataset.
        encoder: the fine-tuned encoder.
        embeddings: one vector an utterance, or their absence.
    """
    from components.core.steps import execute
    from components.extract_embeddings.run import STAGE

    execute(
        STAGE,
        run,
        {},
        inputs={"utterances": utterances.path, "encoder": encoder.path},
        outputs={"embeddings": embeddings.path},
        modality=modality,
    )
