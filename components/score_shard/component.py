"""The KFP component ``score_shard``."""

from kfp import dsl
from kfp.dsl import Output

from mistere.artifacts.kfp_types import ScoredShardsArtifact
from mistere.kubernetes.images import image


@dsl.component(base_image=image("train"), install_kfp_package=False)
def score_shard(
    run: dict,
    scoring: dict,
    item: dict,
    data_digest: str,
    bundle_digest: str,
    model_version: str,
    scores: Output[ScoredShardsArtifact],
):
    """Score a share of an archive's shards with a released model.

    Args:
        run: the run's context.
        scoring: the ``scoring`` section.
        item: which share, as ``index`` and ``of``.
        data_digest: the DVC digest of the archive.
        bundle_digest: the model.
        model_version: its version in the registry; empty if unknown.
        scores: the tables of turns and of calls.
    """
    from components.score_shard.run import STAGE
    from mistere.engine.execution import execute
    from mistere.engine.stage import TaskShard

    execute(
        STAGE,
        run,
        scoring,
        outputs={"scores": scores.path},
        external_inputs={
            "data_digest": data_digest,
            "bundle_digest": bundle_digest,
            "model_version": model_version,
        },
        shard=TaskShard.parse(item),
    )
