"""The KFP components that run two stages in one pod (:mod:`pipelines.combined_steps`)."""

from kfp import dsl
from kfp.dsl import Input, Output

from mistere.artifacts.kfp_types import EmbeddingSetArtifact, EncoderCheckpointArtifact, UtteranceSetArtifact
from mistere.kubernetes.images import image


@dsl.component(base_image=image("train"), install_kfp_package=False)
def embed_utterances(
    run: dict,
    config: dict,
    modality: str,
    utterances: Input[UtteranceSetArtifact],
    encoder: Input[EncoderCheckpointArtifact],
    embeddings: Output[EmbeddingSetArtifact],
    student: bool = False,
):
    """Embed all utterances in one pod: ``embed_shard`` with a single shard, and ``extract_embeddings``.

    Args:
        run: the run's context.
        config: the modality's section; empty for the settings of the encoder itself.
        modality: the modality.
        utterances: the dataset.
        encoder: the fine-tuned encoder.
        embeddings: one vector an utterance, or their absence.
        student: whether the encoder is the student's of a distillation.
    """
    from pipelines.combined_steps import embed

    embed(run, config, modality, utterances.path, encoder.path, embeddings.path, student=student)


@dsl.component(base_image=image("pipeline"), install_kfp_package=False)
def release_finished(run: dict, registry: dict, deployment: dict, champion_digest: str, finished: dict):
    """Register and deploy a model that was found finished: ``register_model`` and ``deploy_model``.

    Args:
        run: the run's context.
        registry: the ``registry`` section.
        deployment: the ``deployment`` section.
        champion_digest: digest of the champion that the release gate compared with, or ``none``.
        finished: digests of the finished artifacts, by task and output.
    """
    from pipelines.combined_steps import release

    release(run, registry, deployment, champion_digest, finished)
