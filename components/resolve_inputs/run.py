"""``resolve_inputs``: resolve the data, the champion and the state of the code to parameters. Never cached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mistere.artifacts.object_store import ObjectStore
from mistere.common.errors import UsageError
from mistere.config.data import DataConfig
from mistere.config.deployment import DeploymentConfig
from mistere.data.latest import LATEST
from mistere.engine.stage import Result, Stage, Step
from mistere.kubernetes.current_pod import is_inside
from mistere.registry.champion import read_champion
from mistere.runs.run_info import read_origin, write_run_info
from mistere.serving.kserve.inference_service import check_cluster_support

STAGE = Stage(name="resolve_inputs", config=DataConfig, cached=False)


def run(config: DataConfig, step: Step, data_digest: str, deployment_mode: str) -> Result:
    """Pin the run to a dataset version and to the current champion.

    Args:
        config: the ``data`` section.
        step: this execution.
        data_digest: the DVC digest that the submitter resolved; empty for the latest published data.
        deployment_mode: ``deployment.mode``. A client of Kubeflow Pipelines may start a run with any, so a run that could not
            deploy ends here, before the training.

    Raises:
        UsageError: no data has been published, or the run is on a cluster and would deploy locally.
    """
    if is_inside():
        check_cluster_support(DeploymentConfig.model_validate({"mode": deployment_mode}))
    digest, remote = (data_digest, step.run.data_remote) if data_digest else _latest(step.store)
    if step.run.schedule:
        context = step.run.model_copy(update={"data_digest": digest, "data_remote": remote})
        write_run_info(step.store, context, read_origin(step.store, step.run.schedule))
    champion = read_champion(step.store).digest
    step.progress(f"data {digest[:12]}, champion {champion[:12]}")
    state = "unknown" if not step.run.commit else "uncommitted" if step.run.dirty else "committed"
    return Result(
        values={"data_digest": digest, "data_remote": remote, "champion_digest": champion, "code_state": state}
    )


def _latest(store: ObjectStore) -> tuple[str, str]:
    """Digest and remote of the published data."""
    latest = LATEST.read(store).value
    if latest is None:
        raise UsageError(
            f"no data has been published ({store.location(LATEST.key)} does not exist): publish it with `mistere data publish`."
        )
    return latest.digest, latest.remote


def shards(section: Mapping[str, Any]) -> list[dict[str, int]]:
    """The parallel tasks that embed a modality, as the items of the pipeline's loop."""
    of = int(section["extraction"]["shards"])
    return [{"index": index, "of": of} for index in range(of)]
