"""The KFP component ``train_moe``."""

from kfp import dsl
from kfp.dsl import Input, Output

from mistere.artifacts.kfp_types import EmbeddingSetArtifact, MoEModelArtifact
from mistere.kubernetes.images import image


@dsl.component(base_image=image("train"), install_kfp_package=False)
def train_moe(
    run: dict,
    mixture: dict,
    speech: Input[EmbeddingSetArtifact],
    text: Input[EmbeddingSetArtifact],
    model: Output[MoEModelArtifact],
):
    """Train the mixture of experts.

    Args:
        run: the run's context.
        mixture: the ``mixture`` section.
        speech: speech vectors.
        text: text vectors.
        model: the trained mixture.
    """
    from components.train_moe.run import STAGE
    from mistere.engine.execution import execute

    execute(
        STAGE,
        run,
        mixture,
        inputs={"speech": speech.path, "text": text.path},
        outputs={"model": model.path},
    )
