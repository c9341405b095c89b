"""The KFP component ``train_moe``, for the modalities of a run."""

from kfp import dsl
from kfp.dsl import Input, Output

from mistere.artifacts.kfp_types import EmbeddingSetArtifact, MoEModelArtifact
from mistere.engine.modality_template import for_modalities
from mistere.kubernetes.images import image


@for_modalities(dsl.component(base_image=image("train"), install_kfp_package=False))
def train_moe(
    run: dict,
    mixture: dict,
    MODALITY_vectors: Input[EmbeddingSetArtifact],
    model: Output[MoEModelArtifact],
):
    """Train the mixture of experts.

    Args:
        run: the run's context.
        mixture: the ``mixture`` section.
        MODALITY_vectors: vectors of this modality, or their absence.
        model: the trained mixture.
    """
    from components.train_moe.run import STAGE
    from mistere.engine.execution import execute

    vectors = {
        "MODALITY": MODALITY_vectors.path,
    }
    execute(STAGE, run, mixture, inputs={"vectors": vectors}, outputs={"model": model.path})
