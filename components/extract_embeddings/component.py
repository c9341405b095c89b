"""The KFP component ``extract_embeddings``."""

from typing import List

from kfp import dsl
from kfp.dsl import Artifact, Input, Output

from mistere.artifacts.kfp_types import EmbeddingSetArtifact, UtteranceSetArtifact
from mistere.kubernetes.images import image


@dsl.component(base_image=image("pipeline"), install_kfp_package=False)
def extract_embeddings(
    run: dict,
    modality: str,
    utterances: Input[UtteranceSetArtifact],
    shards: Input[List[Artifact]],
    embeddings: Output[EmbeddingSetArtifact],
):
    """Put the vectors of all utterances together.

    Args:
        run: the run's context.
        modality: ``speech`` or ``text``.
        utterances: the dataset.
        shards: the shares of it that were embedded.
        embeddings: one vector an utterance, or their absence.
    """
    from components.extract_embeddings.run import STAGE
    from mistere.engine.execution import execute

    execute(
        STAGE,
        run,
        {},
        inputs={"utterances": utterances.path, "shards": [shard.path for shard in shards]},
        outputs={"embeddings": embeddings.path},
        modality=modality,
    )
