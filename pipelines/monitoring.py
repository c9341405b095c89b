"""The monitoring pipeline: one step that compares live traffic with the released model's bundle, for a recurring run."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl
from kfp.dsl.graph_component import GraphComponent

from components.monitor_traffic.component import monitor_traffic
from mistere.config.cluster import ClusterConfig
from pipelines import pod_settings


def monitoring(
    cluster: ClusterConfig | None = None, profile: str = "", section: Mapping[str, Any] | None = None
) -> GraphComponent:
    """Define the pipeline.

    Args:
        cluster: Kubernetes settings of the step; None for a local run.
        profile: name of the profile that the pipeline is compiled from.
        section: the profile's complete ``monitoring`` section, which completes that of a run; None for a local run.
    """
    compiled = {"profile": profile, "section": dict(section or {})}

    def pipeline(monitoring: dict, run: dict = {}) -> None:  # type: ignore[type-arg]  # noqa: B006  (KFP reads the signature)
        """Compare the traffic.

        Args:
            monitoring: section of the configuration, complete or in part.
            run: the run's context, which mistere submit passes complete; otherwise store and tracking server come from the ConfigMap
                mistere-settings, and the id from Kubeflow Pipelines.
        """
        task = monitor_traffic(run=run, job=dsl.PIPELINE_JOB_ID_PLACEHOLDER, compiled=compiled, monitoring=monitoring)
        pod_settings.apply(task, cluster, "monitor_traffic")

    define = dsl.pipeline(
        name="mistere-monitoring",
        description="Compare the traffic of the released model with what it was tested on.",
        pipeline_config=pod_settings.lifetime(cluster) if cluster else None,
    )
    return define(pipeline)
