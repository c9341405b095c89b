"""The KFP face of ``train_moe``."""

from kfp import dsl
from kfp.dsl import Input, Output

from components.core.artifacts import EmbeddingSet, MoEModel
from components.core.images import image


@dsl.component(base_image=image("train"), install_kfp_package=False)
def train_moe(
    run: dict,
    mixture: dict,
    speech: Input[EmbeddingSet],
    text: Input[EmbeddingSet],
    model: Output[MoEModel],
):
    """Train the mixture of experts.

    Args:
        run: the run's context.
        mixture: the ``mixture`` section.
        speech: speech vectors.
        text: text vectors.
        model: the trained mixture.
    """
    from components.core.steps import execute
    from components.train_moe.run import STAGE

    execute(
        STAGE,
        run,
        mixture,
        inputs={"speech": speech.path, "text": text.path},
        outputs={"model": model.path},
    )
