"""The scoring pipeline: a released model's scores of a whole archive, run by KFP's local runner or compiled for Kubeflow Pipelines.

``plan_scoring`` pins the archive and the model; as many tasks as ``scoring.shards`` score its shards; ``summarise_scores`` joins them.
The exit handler ``report_run`` writes the report of the run and notifies the webhook, as in the retraining pipeline.
"""

from collections.abc import Mapping
from typing import Any, Final

from kfp import dsl
from kfp.dsl.graph_component import GraphComponent

from components.plan_scoring.component import plan_scoring
from components.report_run.component import report_run
from components.score_shard.component import score_shard
from components.summarise_scores.component import summarise_scores
from mistere.config.cluster import ClusterConfig
from pipelines import pod_settings

_REPORT: Final = {"log_report": False}
"""MLflow has the runs that made models; a scoring is not one of them."""


def scoring(
    cluster: ClusterConfig | None = None,
    profile: str = "",
    section: Mapping[str, Any] | None = None,
    registry: Mapping[str, Any] | None = None,
) -> GraphComponent:
    """Define the pipeline.

    Args:
        cluster: Kubernetes settings of the steps; None for a local run.
        profile: name of the profile that the pipeline is compiled from.
        section: the profile's complete ``scoring`` section, which completes that of a run; None for a local run.
        registry: the profile's complete ``registry`` section, which has the prices for the report; None for a local run.
    """
    compiled = {"profile": profile, "section": dict(section or {})}
    compiled_registry = {"profile": profile, "sections": {"registry": dict(registry or {})}}

    def pipeline(scoring: dict, run: dict = {}) -> None:  # type: ignore[type-arg]  # noqa: B006  (KFP reads the signature)
        """Score an archive.

        Args:
            scoring: section of the configuration, complete or in part.
            run: the run's context, which mistere submit passes complete; otherwise store, tracking server and data come from the
                ConfigMap mistere-settings, and the id from Kubeflow Pipelines.
        """
        job = dsl.PIPELINE_JOB_ID_PLACEHOLDER
        report = report_run(run=run, job=job, compiled=compiled_registry, registry=_REPORT)
        with dsl.ExitHandler(pod_settings.apply(report, cluster, "report_run"), name="run"):
            plan = plan_scoring(run=run, job=job, compiled=compiled, scoring=scoring)
            pod_settings.apply(plan, cluster, "plan_scoring")
            context, chosen = plan.outputs["context"], plan.outputs["section"]
            # kfp's local runner finds the list of a loop only inside of a condition (kfp 2.17, enhanced_dag_orchestrator.py).
            with dsl.If(plan.outputs["Output"] == "score", name="archive-found"):
                with dsl.ParallelFor(plan.outputs["shards"], name="shards") as item:
                    scored = score_shard(
                        run=context,
                        scoring=chosen,
                        item=item,
                        data_digest=plan.outputs["data_digest"],
                        bundle_digest=plan.outputs["bundle_digest"],
                        model_version=plan.outputs["model_version"],
                    )
                    pod_settings.apply(scored, cluster, "score_shard")
                summarised = summarise_scores(
                    run=context,
                    scoring=chosen,
                    data_digest=plan.outputs["data_digest"],
                    shards=dsl.Collected(scored.outputs["scores"]),
                )
                pod_settings.apply(summarised, cluster, "summarise_scores")

    define = dsl.pipeline(
        name="mistere-scoring",
        description="Score a whole archive of conversations with the released model.",
        pipeline_config=pod_settings.lifetime(cluster) if cluster else None,
    )
    return define(pipeline)
