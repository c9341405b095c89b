"""The KFP component of ``deploy_model``."""

from kfp import dsl
from kfp.dsl import Input

from mistere.artifacts.kfp_types import EvaluationReportArtifact, ModelBundleArtifact
from mistere.kubernetes.images import image


@dsl.component(base_image=image("pipeline"), install_kfp_package=False)
def deploy_model(
    run: dict,
    deployment: dict,
    model_version: str,
    champion_digest: str,
    report: Input[EvaluationReportArtifact],
    bundle: Input[ModelBundleArtifact],
):
    """Deploy the bundle, test the deployment, and only then move the champion.

    Args:
        run: the run's context.
        deployment: the ``deployment`` section.
        model_version: the bundle's version in the registry.
        champion_digest: digest of the champion that the release gate compared with, or ``none``.
        report: the offline evaluation, for the champion pointer.
        bundle: the candidate.
    """
    from components.deploy_model.run import STAGE
    from mistere.engine.execution import execute

    execute(
        STAGE,
        run,
        deployment,
        inputs={"report": report.path, "bundle": bundle.path},
        external_inputs={"model_version": model_version, "champion_digest": champion_digest},
    )
