"""The KFP component ``pull_data``."""

from kfp import dsl
from kfp.dsl import Output

from mistere.artifacts.kfp_types import UtteranceSetArtifact
from mistere.kubernetes.images import image


@dsl.component(base_image=image("pipeline"), install_kfp_package=False)
def pull_data(run: dict, data: dict, data_digest: str, utterances: Output[UtteranceSetArtifact]):
    """Fetch the dataset at its pinned digest and describe it.

    Args:
        run: the run's context.
        data: the ``data`` section.
        data_digest: the DVC digest.
        utterances: the reference that later stages read the dataset by.
    """
    from components.pull_data.run import STAGE
    from mistere.engine.execution import execute

    execute(STAGE, run, data, outputs={"utterances": utterances.path}, external_inputs={"data_digest": data_digest})
