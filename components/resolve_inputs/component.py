"""The KFP component ``resolve_inputs``."""

from typing import NamedTuple

from kfp import dsl

from mistere.kubernetes.images import image


@dsl.component(base_image=image("pipeline"), install_kfp_package=False)
def resolve_inputs(
    run: dict,
    job: str,
    data: dict,
    speech: dict,
    text: dict,
    deployment: dict,
) -> NamedTuple(  # type: ignore[valid-type]
    "Outputs",
    [
        ("context", dict),
        ("data_digest", str),
        ("champion_digest", str),
        ("code_state", str),
        # Of an output declared `list`, KFP makes a loop's items strings; of `list[dict]`, structs.
        ("speech_shards", list[dict]),
        ("text_shards", list[dict]),
    ],
):
    """Resolve data and champion to digests, and list the embedding tasks.

    Args:
        run: the run's context, as submitted.
        job: the id of the run in Kubeflow Pipelines.
        data: the ``data`` section.
        speech: the ``speech`` section.
        text: the ``text`` section.
        deployment: the ``deployment`` section.

    Returns:
        context: the run's context with the data resolved.
        data_digest: the DVC digest that the run is pinned to.
        champion_digest: the champion's bundle, or ``none``.
        code_state: ``committed``, ``uncommitted`` or ``unknown``.
        speech_shards: ``index`` and ``of`` of each task that embeds speech.
        text_shards: the same for text.
    """
    from components.resolve_inputs.run import STAGE, shards
    from mistere.engine.execution import execute
    from mistere.engine.stage import job_context

    context = job_context(run, job)
    outside = {"data_digest": context["data_digest"], "deployment_mode": deployment.get("mode", "local")}
    values = execute(STAGE, context, data, external_inputs=outside)
    context.update(data_digest=values["data_digest"], data_remote=values["data_remote"])
    digests = values["data_digest"], values["champion_digest"], values["code_state"]
    return context, *digests, shards(speech), shards(text)
