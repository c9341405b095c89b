"""The KFP component of ``report_run``."""

from kfp import dsl
from kfp.dsl import HTML, Output

from mistere.kubernetes.images import image


@dsl.component(base_image=image("pipeline"), install_kfp_package=False)
def report_run(run: dict, job: str, compiled: dict, registry: dict, page: Output[HTML]):
    """Report on the run, whether it succeeded or not.

    Args:
        run: the run's context, a parameter of the pipeline; what it lacks comes from the ConfigMap ``mistere-settings``.
        job: the id that the engine gave this run.
        compiled: the profile that the pipeline was compiled from, which completes the section.
        registry: the ``registry`` section, complete or in part.
        page: the report, for the user interface of Kubeflow Pipelines.
    """
    from components.report_run.run import STAGE, complete_registry, copy_page
    from mistere.engine.execution import execute
    from mistere.engine.run_settings import run_context

    context = run_context(run, job, str(compiled.get("profile", ""))).model_dump(mode="json")
    execute(STAGE, context, complete_registry(compiled, registry))
    copy_page(context, page.path)
