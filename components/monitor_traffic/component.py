"""The KFP component ``monitor_traffic``."""

from kfp import dsl
from kfp.dsl import HTML, Output

from mistere.kubernetes.images import image


@dsl.component(base_image=image("pipeline"), install_kfp_package=False)
def monitor_traffic(run: dict, job: str, compiled: dict, monitoring: dict, page: Output[HTML]) -> str:
    """Compare the champion's traffic with what it was tested on.

    Args:
        run: the run's context, as submitted; what it lacks comes from the ConfigMap ``mistere-settings``.
        job: the id of the run in Kubeflow Pipelines.
        compiled: the profile that the pipeline was compiled from, which completes the section.
        monitoring: the ``monitoring`` section, complete or in part.
        page: the page, for the user interface of Kubeflow Pipelines.

    Returns:
        the verdict: ``steady``, ``watch`` or ``drifted``.
    """
    from components.monitor_traffic.run import monitor

    return monitor(run, job, compiled, monitoring, page.path)
