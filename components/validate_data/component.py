"""The KFP face of ``validate_data``."""

from kfp import dsl
from kfp.dsl import Input, Output

from components.core.artifacts import UtteranceSet, ValidationReport
from components.core.images import image


@dsl.component(base_image=image("pipeline"), install_kfp_package=False)
def validate_data(
    run: dict,
    validation: dict,
    utterances: Input[UtteranceSet],
    report: Output[ValidationReport],
) -> str:
    """Judge the dataset. A rejection is a verdict, not a failure, so that its report survives.

    Args:
        run: the run's context.
        validation: the ``validation`` section.
        utterances: the dataset.
        report: the verdict and its reasons.

    Returns:
        ``pass`` or ``reject``.
    """
    from components.core.steps import execute
    from components.validate_data.run import STAGE

    values = execute(STAGE, run, validation, inputs={"utterances": utterances.path}, outputs={"report": report.path})
    return values["verdict"]
