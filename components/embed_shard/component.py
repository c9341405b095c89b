"""The KFP component ``embed_shard``."""

from kfp import dsl
from kfp.dsl import Input, Output

from mistere.artifacts.kfp_types import EmbeddingShardArtifact, EncoderCheckpointArtifact, UtteranceSetArtifact
from mistere.kubernetes.images import image


@dsl.component(base_image=image("train"), install_kfp_package=False)
def embed_shard(
    run: dict,
    config: dict,
    modality: str,
    item: dict,
    utterances: Input[UtteranceSetArtifact],
    encoder: Input[EncoderCheckpointArtifact],
    vectors: Output[EmbeddingShardArtifact],
):
    """Embed a share of the utterances with a fine-tuned encoder.

    Args:
        run: the run's context.
        config: the modality's section.
        modality: ``speech`` or ``text``.
        item: which share, as ``index`` and ``of``.
        utterances: the dataset.
        encoder: the fine-tuned encoder.
        vectors: a vector for each utterance, or the modality's absence.
    """
    from components.embed_shard.run import STAGE
    from mistere.engine.execution import execute
    from mistere.engine.stage import TaskShard

    execute(
        STAGE,
        run,
        config,
        inputs={"utterances": utterances.path, "encoder": encoder.path},
        outputs={"vectors": vectors.path},
        modality=modality,
        shard=TaskShard.parse(item),
    )
