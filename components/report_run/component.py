"""The KFP face of ``report_run``."""

from kfp import dsl

from components.core.images import image


@dsl.component(base_image=image("pipeline"), install_kfp_package=False)
def report_run(run: dict, registry: dict):
    """Tell what the run did, whether it succeeded or not.

    Args:
        run: the run's context.
        registry: the ``registry`` section.
    """
    from components.core.steps import execute
    from components.report_run.run import STAGE

    execute(STAGE, run, registry)
