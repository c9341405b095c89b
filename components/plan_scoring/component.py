"""The KFP component ``plan_scoring``."""

from typing import NamedTuple

from kfp import dsl

from mistere.kubernetes.images import image


@dsl.component(base_image=image("pipeline"), install_kfp_package=False)
def plan_scoring(
    run: dict,
    job: str,
    compiled: dict,
    scoring: dict,
) -> NamedTuple(  # type: ignore[valid-type]
    "Outputs",
    [
        ("Output", str),  # conditions of kfp's local runner know outputs of this name only
        ("context", dict),
        ("section", dict),
        ("shards", list[dict]),
        ("data_digest", str),
        ("bundle_digest", str),
        ("model_version", str),
    ],
):
    """Complete the run's parameters, resolve archive and model to digests, and list the tasks that score.

    Args:
        run: the run's context, as submitted; what it lacks comes from the ConfigMap ``mistere-settings``.
        job: the id of the run in Kubeflow Pipelines.
        compiled: the profile that the pipeline was compiled from, which completes the section.
        scoring: the ``scoring`` section, complete or in part.

    Returns:
        Output: ``score``.
        context: the run's context with the data resolved.
        section: the complete section.
        shards: ``index`` and ``of`` of each task that scores.
        data_digest: the DVC digest that the run is pinned to.
        bundle_digest: the model.
        model_version: its version in the registry; empty if unknown.
    """
    from components.plan_scoring.run import plan

    return "score", *plan(run, job, compiled, scoring)
