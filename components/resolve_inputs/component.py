"""The KFP component ``resolve_inputs``, for the modalities of a run."""

from typing import NamedTuple

from kfp import dsl

from mistere.engine.modality_template import for_modalities
from mistere.kubernetes.images import image


@for_modalities(dsl.component(base_image=image("pipeline"), install_kfp_package=False))
def resolve_inputs(
    run: dict,
    job: str,
    compiled: dict,
    data: dict,
    validation: dict,
    MODALITY: dict,
    mixture: dict,
    evaluation: dict,
    gate: dict,
    registry: dict,
    deployment: dict,
) -> NamedTuple(  # type: ignore[valid-type]
    "Outputs",
    [
        ("Output", str),  # conditions of kfp's local runner know outputs of this name only
        ("finished", dict),
        ("context", dict),
        ("data_digest", str),
        ("champion_digest", str),
        ("anchor_digest", str),
        ("code_state", str),
        # Of an output declared `list`, KFP makes a loop's items strings; of `list[dict]`, structs.
        ("MODALITY_shards", list[dict]),
        ("data_section", dict),
        ("validation_section", dict),
        ("MODALITY_section", dict),
        ("mixture_section", dict),
        ("evaluation_section", dict),
        ("gate_section", dict),
        ("registry_section", dict),
        ("deployment_section", dict),
    ],
):
    """Complete the run's parameters, resolve data and champion to digests, and list the embedding tasks.

    Args:
        run: the run's context, as submitted; what it lacks comes from the ConfigMap ``mistere-settings``.
        job: the id of the run in Kubeflow Pipelines.
        compiled: the profile that the pipeline was compiled from, which completes the sections.
        data: the ``data`` section, complete or in part, as are the following sections.
        validation: the ``validation`` section.
        MODALITY: the section of this modality.
        mixture: the ``mixture`` section.
        evaluation: the ``evaluation`` section.
        gate: the ``gate`` section.
        registry: the ``registry`` section.
        deployment: the ``deployment`` section.

    Returns:
        Output: ``work``, ``release`` (all cached steps were found finished, and the gate does not reject) or ``nothing``.
        finished: digests of the finished artifacts, by task and output; empty if there is work.
        context: the run's context with the data resolved.
        data_digest: the DVC digest that the run is pinned to.
        champion_digest: the champion's bundle, or ``none``.
        anchor_digest: the bundle of the gate's anchor, or ``none``.
        code_state: ``committed``, ``uncommitted`` (with the files: ``uncommitted: a.py``) or ``unknown``.
        MODALITY_shards: ``index`` and ``of`` of each task that embeds this modality.
        data_section: the complete section, as are the following outputs.
        validation_section: likewise.
        MODALITY_section: likewise.
        mixture_section: likewise.
        evaluation_section: likewise.
        gate_section: likewise.
        registry_section: likewise.
        deployment_section: likewise.
    """
    from components.resolve_inputs.run import resolve, shards

    given = {
        "data": data,
        "validation": validation,
        "MODALITY": MODALITY,
        "mixture": mixture,
        "evaluation": evaluation,
        "gate": gate,
        "registry": registry,
        "deployment": deployment,
    }
    context, values, sections, remaining, finished = resolve(run, job, compiled, given)
    digests = [values[name] for name in ("data_digest", "champion_digest", "anchor_digest", "code_state")]
    parallel = [
        shards(sections["MODALITY"]),
    ]
    return remaining, finished, context, *digests, *parallel, *(sections[name] for name in given)
