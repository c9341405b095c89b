"""The KFP face of ``embed_shard``."""

from kfp import dsl
from kfp.dsl import Input, Output

from components.core.artifacts import EmbeddingShard, EncoderCheckpoint, UtteranceSet
from components.core.images import image


@dsl.component(base_image=image("train"), install_kfp_package=False)
def embed_shard(
    run: dict,
    settings: dict,
    modality: str,
    item: dict,
    utterances: Input[UtteranceSet],
    encoder: Input[EncoderCheckpoint],
    vectors: Output[EmbeddingShard],
):
    """Embed a share of the utterances with a fine-tuned encoder.

    Args:
        run: the run's context.
        settings: the modality's section.
        modality: ``speech`` or ``text``.
        item: which share: ``index`` of ``of``.
        utterances: the dataset.
        encoder: the fine-tuned encoder.
        vectors: one vector an utterance, or their absence.
    """
    from components.core.stage import Shard
    from components.core.steps import execute
    from components.embed_shard.run import STAGE

    execute(
        STAGE,
        run,
        settings,
        inputs={"utterances": utterances.path, "encoder": encoder.path},
        outputs={"vectors": vectors.path},
        modality=modality,
        shard=Shard.parse(item),
    )
