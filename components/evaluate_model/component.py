"""The KFP face of ``evaluate_model``."""

from kfp import dsl
from kfp.dsl import Input, Output

from components.core.artifacts import EmbeddingSet, EvaluationReport, MoEModel, UtteranceSet
from components.core.images import image


@dsl.component(base_image=image("train"), install_kfp_package=False)
def evaluate_model(
    run: dict,
    evaluation: dict,
    champion_digest: str,
    utterances: Input[UtteranceSet],
    speech: Input[EmbeddingSet],
    text: Input[EmbeddingSet],
    model: Input[MoEModel],
    report: Output[EvaluationReport],
):
    """Evaluate on the test split, once.

    Args:
        run: the run's context.
        evaluation: the ``evaluation`` section.
        champion_digest: the champion's bundle, or ``none``.
        utterances: the dataset.
        speech: speech vectors.
        text: text vectors.
        model: the mixture.
        report: figures and predictions.
    """
    from components.core.steps import execute
    from components.evaluate_model.run import STAGE

    execute(
        STAGE,
        run,
        evaluation,
        inputs={"utterances": utterances.path, "speech": speech.path, "text": text.path, "model": model.path},
        outputs={"report": report.path},
        world={"champion_digest": champion_digest},
    )
