"""The KFP component ``validate_data``."""

from kfp import dsl
from kfp.dsl import Input, Output

from mistere.artifacts.kfp_types import DataProfileArtifact, UtteranceSetArtifact, ValidationReportArtifact
from mistere.kubernetes.images import image


@dsl.component(base_image=image("pipeline"), install_kfp_package=False)
def validate_data(
    run: dict,
    validation: dict,
    champion_digest: str,
    utterances: Input[UtteranceSetArtifact],
    report: Output[ValidationReportArtifact],
    profile: Output[DataProfileArtifact],
    accepted: Output[UtteranceSetArtifact],
) -> str:
    """Validate the dataset. A rejection is a verdict, not a failure, so that its report survives.

    Args:
        run: the run's context.
        validation: the ``validation`` section.
        champion_digest: the champion's bundle, or ``none``; this dataset is compared with its dataset.
        utterances: the dataset.
        report: the verdict and its reasons.
        profile: the dataset in numbers.
        accepted: the accepted dialogues of the dataset.

    Returns:
        ``pass``, ``warn`` or ``reject``.
    """
    from components.validate_data.run import STAGE
    from mistere.engine.execution import execute

    values = execute(
        STAGE,
        run,
        validation,
        inputs={"utterances": utterances.path},
        outputs={"report": report.path, "profile": profile.path, "accepted": accepted.path},
        external_inputs={"champion_digest": champion_digest},
    )
    return values["verdict"]
