"""The KFP face of ``pull_data``."""

from kfp import dsl
from kfp.dsl import Output

from components.core.artifacts import UtteranceSet
from components.core.images import image


@dsl.component(base_image=image("pipeline"), install_kfp_package=False)
def pull_data(run: dict, data: dict, data_digest: str, utterances: Output[UtteranceSet]):
    """Fetch the dataset at its pinned digest and describe it.

    Args:
        run: the run's context.
        data: the ``data`` section.
        data_digest: the DVC digest.
        utterances: the reference that later stages read by.
    """
    from components.core.steps import execute
    from components.pull_data.run import STAGE

    execute(STAGE, run, data, outputs={"utterances": utterances.path}, world={"data_digest": data_digest})
