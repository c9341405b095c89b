"""The KFP component of ``report_run``."""

from kfp import dsl
from kfp.dsl import HTML, Output

from mistere.kubernetes.images import image


@dsl.component(base_image=image("pipeline"), install_kfp_package=False)
def report_run(run: dict, job: str, registry: dict, page: Output[HTML]):
    """Report on the run, whether it succeeded or not.

    Args:
        run: the run's context, a parameter of the pipeline.
        job: the id that the engine gave this run.
        registry: the ``registry`` section.
        page: the report, for the user interface of Kubeflow Pipelines.
    """
    from components.report_run.run import STAGE, copy_page
    from mistere.engine.execution import execute
    from mistere.engine.stage import job_context

    context = job_context(run, job)
    execute(STAGE, context, registry)
    copy_page(context, page.path)
