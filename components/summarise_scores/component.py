"""The KFP component ``summarise_scores``."""

from typing import List

from kfp import dsl
from kfp.dsl import HTML, Artifact, Input, Output

from mistere.artifacts.kfp_types import ArchiveScoresArtifact
from mistere.kubernetes.images import image


@dsl.component(base_image=image("pipeline"), install_kfp_package=False)
def summarise_scores(
    run: dict,
    scoring: dict,
    data_digest: str,
    shards: Input[List[Artifact]],
    scores: Output[ArchiveScoresArtifact],
    page: Output[HTML],
):
    """Join the scores of an archive's shards, and write the page about them.

    Args:
        run: the run's context.
        scoring: the ``scoring`` section.
        data_digest: the DVC digest of the archive.
        shards: the scores of its shares, in order.
        scores: the table of calls, and the page.
        page: the page, for the user interface of Kubeflow Pipelines.
    """
    from components.summarise_scores.run import STAGE, copy_page
    from mistere.engine.execution import execute

    execute(
        STAGE,
        run,
        scoring,
        inputs={"shards": [one.path for one in shards]},
        outputs={"scores": scores.path},
        external_inputs={"data_digest": data_digest},
    )
    copy_page(run, page.path)
