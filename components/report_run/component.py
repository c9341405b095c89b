"""The KFP face of ``report_run``."""

from kfp import dsl
from kfp.dsl import HTML, Output

from components.core.images import image


@dsl.component(base_image=image("pipeline"), install_kfp_package=False)
def report_run(run: dict, registry: dict, page: Output[HTML]):
    """Tell what the run did, whether it succeeded or not.

    Args:
        run: the run's context.
        registry: the ``registry`` section.
        page: the report, for the user interface of Kubeflow Pipelines.
    """
    from components.core.steps import execute
    from components.report_run.run import STAGE, copy_page

    execute(STAGE, run, registry)
    copy_page(run, page.path)
