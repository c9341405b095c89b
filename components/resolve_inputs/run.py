"""``resolve_inputs``: complete the run's parameters, and resolve the data, the champion and the state of the code. Never cached."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final, NamedTuple

from pydantic import Field

from components.resolve_inputs.preflight import preflight
from components.resolve_inputs.rerun import inputs_digest, remaining_work
from mistere.artifacts.object_store import open_store
from mistere.common.errors import UsageError
from mistere.config.base import Section
from mistere.config.loader import Config, complete_config
from mistere.data.latest import latest_data
from mistere.engine.execution import execute
from mistere.engine.finished_run import INPUTS_VALUE, has_finished
from mistere.engine.run_settings import declared_config, deployment_namespace, is_complete, run_context
from mistere.engine.stage import Result, Stage, Step
from mistere.kubernetes.current_pod import is_inside
from mistere.registry.mlflow.model_registry import mirror_champion, resolve_anchor
from mistere.registry.release.champion import read_champion
from mistere.registry.release.unfinished import take_back_abandoned
from mistere.runs.run_info import unrecorded_origin, write_run_info
from mistere.serving.kserve.supported_settings import check_cluster_support

Sections = Mapping[str, Mapping[str, Any]]


class RunParameters(Section):
    """The parameters of a run.

    Attributes:
        compiled: the complete sections of the profile that the pipeline was compiled from; empty in a local run.
        given: the sections as the run got them, complete or in part.
        complete: whether the run's context came complete from ``mistere``.
    """

    compiled: dict[str, dict[str, Any]] = Field(default_factory=dict)
    given: dict[str, dict[str, Any]] = Field(default_factory=dict)
    complete: bool = True

    def config(self) -> Config:
        """The complete configuration.

        Raises:
            UsageError: an unknown setting, or an invalid value.
        """
        config = complete_config(self.compiled, self.given, declared_config())
        for modality, settings in config.encoders().items():
            shards = settings.extraction.shards
            if shards > 1 == self.compiled.get(modality, {}).get("extraction", {}).get("shards"):
                raise UsageError(
                    f"{modality}.extraction.shards={shards}: this pipeline was compiled for a single shard, without a loop: compile it "
                    f"with `mistere compile --set {modality}.extraction.shards={shards}`."
                )
        transcription = config.data.transcription.source
        if transcription and self.compiled and not self.compiled["data"].get("transcription", {}).get("source"):
            raise UsageError(
                f"data.transcription.source={transcription}: this pipeline was compiled without the step transcribe: compile it with "
                f"`mistere compile --set data.transcription.source={transcription}`."
            )
        namespace, named = deployment_namespace(), config.deployment.namespace
        if self.complete or not namespace or named != self.compiled.get("deployment", {}).get("namespace"):
            return config
        return config.model_copy(update={"deployment": config.deployment.model_copy(update={"namespace": namespace})})


STAGE: Final = Stage(name="resolve_inputs", config=RunParameters, cached=False)


class Resolved(NamedTuple):
    """What the other steps of the run get."""

    context: dict[str, Any]
    values: Mapping[str, str]
    sections: dict[str, dict[str, Any]]
    remaining: str
    finished: dict[str, Any]


def resolve(run: Mapping[str, Any], job: str, compiled: Mapping[str, Any], given: Sections) -> Resolved:
    """Complete the parameters of a run and resolve its external inputs.

    Args:
        run: the run's context, as the pipeline received it.
        job: the id of the run in Kubeflow Pipelines.
        compiled: the ``profile`` that the pipeline was compiled from, and its ``sections``.
        given: the sections, as the pipeline received them.

    Raises:
        UsageError: something is missing or unknown, or the run could not deploy.
    """
    context = run_context(run, job, str(compiled.get("profile", "")))
    parameters = {"compiled": compiled.get("sections", {}), "given": given, "complete": is_complete(run)}
    values = execute(STAGE, context.model_dump(mode="json"), parameters)
    resolved = {name: values[name] for name in ("data_digest", "data_remote")}
    context = context.model_copy(update={**resolved, "inputs_digest": values[INPUTS_VALUE]})
    sections = RunParameters.model_validate(parameters).config().parameters()
    remaining = remaining_work(open_store(context.store), context, values[INPUTS_VALUE])
    return Resolved(context.model_dump(mode="json"), values, sections, *remaining)


def run(config: RunParameters, step: Step) -> Result:
    """Check the parameters and what later steps need from outside, and pin the run to a dataset version and to the current champion.

    What an interrupted release has left of a share of the requests is taken back first: this run's own release is hours away.

    Args:
        config: the run's parameters.
        step: this execution.

    Raises:
        UsageError: a setting is unknown or invalid, no data has been published, there is no such anchor, or the run is on a cluster
            and would deploy locally.
        MistereError: the tracking server or an encoder's source is missing, refuses access or cannot be reached.
    """
    whole = config.config()
    if is_inside():
        check_cluster_support(whole.deployment)
    digest, remote = step.run.data_digest, step.run.data_remote
    if not digest:
        digest, remote = latest_data(step.store)
    source = step.run.data_digest or "the latest published data"
    parameters = whole.parameters()
    origin = unrecorded_origin(step.store, step.run.schedule, whole, parameters, source, recorded=config.complete)
    if origin is not None:
        context = step.run.model_copy(update={"data_digest": digest, "data_remote": remote})
        write_run_info(step.store, context, origin)
    mirror = partial(mirror_champion, step.run.tracking_uri)
    take_back_abandoned(step.store, mirror, whole.deployment.service, step.progress.note)
    champion = read_champion(step.store).digest
    step.progress(f"data {digest[:12]}, champion {champion[:12]}")
    values = {
        "data_digest": digest,
        "data_remote": remote,
        "champion_digest": champion,
        "anchor_digest": resolve_anchor(whole.gate, step.run.tracking_uri, whole.registry.model_name),
        "code_state": step.run.code_state,
    }
    inputs = inputs_digest(whole, step.run, values) if config.compiled else ""
    if not (inputs and has_finished(step.store, inputs)):
        for sentence in preflight(whole, step.run.tracking_uri, remote, digest):
            step.progress.note(sentence)
    return Result(values={**values, INPUTS_VALUE: inputs})


def shards(section: Mapping[str, Any]) -> list[dict[str, int]]:
    """The parallel tasks that embed a modality, as the items of the pipeline's loop."""
    of = int(section["extraction"]["shards"])
    return [{"index": index, "of": of} for index in range(of)]
