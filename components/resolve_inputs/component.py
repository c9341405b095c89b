"""The KFP face of ``resolve_inputs``."""

from typing import NamedTuple

from kfp import dsl

from components.core.images import image


@dsl.component(base_image=image("pipeline"), install_kfp_package=False)
def resolve_inputs(
    run: dict,
    data: dict,
) -> NamedTuple("Outputs", [("data_digest", str), ("champion_digest", str)]):  # type: ignore[valid-type]
    """Resolve data and champion to digests.

    Args:
        run: the run's context.
        data: the ``data`` section.

    Returns:
        data_digest: the DVC digest that the run is pinned to.
        champion_digest: the champion's bundle, or ``none``.
    """
    from components.core.steps import execute
    from components.resolve_inputs.run import STAGE

    values = execute(STAGE, run, data, world={"data_digest": run["data_digest"]})
    return values["data_digest"], values["champion_digest"]
