"""The KFP face of ``resolve_inputs``."""

from typing import NamedTuple

from kfp import dsl

from components.core.images import image


@dsl.component(base_image=image("pipeline"), install_kfp_package=False)
def resolve_inputs(
    run: dict,
    data: dict,
    speech: dict,
    text: dict,
) -> NamedTuple(  # type: ignore[valid-type]
    "Outputs",
    [
        ("data_digest", str),
        ("champion_digest", str),
        ("code_state", str),
        ("speech_shards", list),
        ("text_shards", list),
    ],
):
    """Resolve data and champion to digests, and say who embeds what.

    Args:
        run: the run's context.
        data: the ``data`` section.
        speech: the ``speech`` section.
        text: the ``text`` section.

    Returns:
        data_digest: the DVC digest that the run is pinned to.
        champion_digest: the champion's bundle, or ``none``.
        code_state: ``committed``, ``uncommitted`` or ``unknown``.
        speech_shards: ``index`` and ``of`` for each task that shares the embedding of speech.
        text_shards: the same for text.
    """
    from components.core.steps import execute
    from components.resolve_inputs.run import STAGE, shards

    values = execute(STAGE, run, data, world={"data_digest": run["data_digest"]})
    digests = values["data_digest"], values["champion_digest"], values["code_state"]
    return *digests, shards(speech), shards(text)
