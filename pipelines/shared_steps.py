"""Steps that several pipelines define alike, as plain functions that they call while KFP compiles them."""

from collections.abc import Mapping, Sequence
from typing import Any

from kfp.dsl.pipeline_channel import PipelineChannel
from kfp.dsl.pipeline_task import PipelineTask

from components.evaluate_model.component import evaluate_model
from components.gate_model.component import gate_model
from components.pull_data.component import pull_data
from components.validate_data.component import validate_data
from mistere.config.cluster import ClusterConfig
from pipelines import pod_settings


def checked_data(
    context: PipelineChannel,
    section: Mapping[str, PipelineChannel],
    data_digest: PipelineChannel,
    champion: PipelineChannel | str,
    cluster: ClusterConfig | None,
) -> PipelineTask:
    """Define ``pull_data`` and ``validate_data``.

    Args:
        context: the run's context.
        section: the sections ``data`` and ``validation``, by name.
        data_digest: the version of the data.
        champion: digest of the model with whose data these are compared.
        cluster: Kubernetes settings of the steps; None for a local run.

    Returns:
        The task ``validate_data``.
    """
    pulled = pull_data(run=context, data=section["data"], data_digest=data_digest)
    pod_settings.apply(pulled, cluster, "pull_data")
    validated = validate_data(
        run=context,
        validation=section["validation"],
        champion_digest=champion,
        utterances=pulled.outputs["utterances"],
    )
    return pod_settings.apply(validated, cluster, "validate_data")


def evaluated_and_judged(
    modalities: Sequence[str],
    context: PipelineChannel,
    section: Mapping[str, PipelineChannel],
    champion: PipelineChannel,
    anchor: PipelineChannel | str,
    code_state: PipelineChannel,
    validated: PipelineTask,
    utterances: PipelineChannel,
    model: PipelineTask,
    parts: Mapping[str, PipelineChannel],
    cluster: ClusterConfig | None,
    **further: Any,
) -> tuple[PipelineTask, PipelineTask]:
    """Define ``evaluate_model`` and ``gate_model``.

    Args:
        modalities: names of the modalities.
        context: the run's context.
        section: the sections ``evaluation`` and ``gate``, by name.
        champion: digest of the model that the new one is compared with.
        anchor: digest of an older model that it is compared with, too.
        code_state: whether the run's code is committed.
        validated: the task ``validate_data``.
        utterances: the dataset.
        model: the task that trained the mixture.
        parts: the encoders and the vectors, by the names of the parameters of ``evaluate_model``.
        cluster: Kubernetes settings of the steps; None for a local run.
        further: further arguments of ``gate_model``.

    Returns:
        The tasks ``evaluate_model`` and ``gate_model``.
    """
    evaluated = evaluate_model(modalities)(
        run=context,
        evaluation=section["evaluation"],
        champion_digest=champion,
        anchor_digest=anchor,
        utterances=utterances,
        model=model.outputs["model"],
        **parts,
    )
    pod_settings.apply(evaluated, cluster, "evaluate_model")
    judged = gate_model(
        run=context,
        gate=section["gate"],
        champion_digest=champion,
        anchor_digest=anchor,
        code_state=code_state,
        validation=validated.outputs["report"],
        report=evaluated.outputs["report"],
        **further,
    )
    return evaluated, pod_settings.apply(judged, cluster, "gate_model")
