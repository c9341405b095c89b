"""The pipeline definition, run by KFP's local runner or compiled for Kubeflow Pipelines.

Each stage gets its section of the configuration and the run's context; artifacts are passed as references. A verdict is a
component's single ``Output``, because the local runner supports conditions on no other name. With the ``cluster`` section,
the definition also sets each step's Kubernetes settings (:mod:`pipelines.pod_settings`).

On Kubeflow Pipelines each step costs two pods and each condition or loop one, so the compiled definition is shorter where it can
be: a run whose steps are all finished goes straight to the release, and a modality with a single shard has no loop.
"""

from collections.abc import Collection, Mapping, Sequence
from inspect import Parameter, Signature
from typing import Any

from kfp import dsl
from kfp.dsl.graph_component import GraphComponent
from kfp.dsl.pipeline_task import PipelineTask

from components.deploy_model.component import deploy_model
from components.embed_shard.component import embed_shard
from components.extract_embeddings.component import extract_embeddings
from components.finetune_encoder.component import finetune_encoder
from components.register_model.component import register_model
from components.report_run.component import report_run
from components.resolve_inputs.component import resolve_inputs
from components.train_moe.component import train_moe
from components.transcribe.component import transcribe
from mistere.config.cluster import ClusterConfig
from mistere.config.modalities import DEFAULT_MODALITIES, sections_with
from mistere.kubernetes.images import image
from pipelines import pod_settings
from pipelines.combined_components import embed_utterances, release_finished
from pipelines.shared_steps import checked_data, evaluated_and_judged


def retraining(
    modalities: Sequence[str] = DEFAULT_MODALITIES,
    cluster: ClusterConfig | None = None,
    profile: str = "",
    sections: Mapping[str, Any] | None = None,
    *,
    transcribing: bool = False,
) -> GraphComponent:
    """Define the pipeline.

    Args:
        modalities: names of the modalities; the pipeline has a parameter for the section of each.
        cluster: Kubernetes settings of the steps; None for a local run.
        profile: name of the profile that the pipeline is compiled from.
        sections: the profile's complete sections by name, which complete the parameters of a run; None for a local run.
        transcribing: whether there is a step ``transcribe``, without which no run transcribes.
    """
    compiled = {"profile": profile, "sections": dict(sections or {})}
    compiled_registry = {"profile": profile, "sections": {"registry": (sections or {}).get("registry", {})}}

    def pipeline(*values: Any) -> None:
        given = dict(zip(parameters, values, strict=True))
        run, job = given.pop("run"), dsl.PIPELINE_JOB_ID_PLACEHOLDER
        report = report_run(run=run, job=job, compiled=compiled_registry, registry=given["registry"])
        with dsl.ExitHandler(pod_settings.apply(report, cluster, "report_run"), name="run"):
            inputs = resolve_inputs(modalities)(run=run, job=job, compiled=compiled, **given)
            pod_settings.apply(inputs, cluster, "resolve_inputs")
            if not sections:  # a local run, in which a step costs a tenth of a second
                _steps(inputs, modalities, cluster, set(), transcribing)
                return
            with dsl.If(inputs.outputs["Output"] == "work", name="work-to-do"):
                single = {name for name in modalities if sections[name]["extraction"]["shards"] == 1}
                _steps(inputs, modalities, cluster, single, transcribing)
            with dsl.If(inputs.outputs["Output"] == "release", name="all-finished"):
                released = release_finished(
                    run=inputs.outputs["context"],
                    registry=inputs.outputs["registry_section"],
                    deployment=inputs.outputs["deployment_section"],
                    champion_digest=inputs.outputs["champion_digest"],
                    finished=inputs.outputs["finished"],
                )
                released.set_display_name("deploy-model (finished)")
                pod_settings.apply(released, cluster, "deploy_model", also=("register_model",))

    parameters = _parameters(modalities)
    pipeline.__signature__ = Signature(list(parameters.values()))  # type: ignore[attr-defined]
    pipeline.__doc__ = _docstring(modalities)
    define = dsl.pipeline(
        name="mistere-retraining",
        description="Pull, validate, fine-tune, embed, train, evaluate, gate, register, deploy.",
        pipeline_config=pod_settings.lifetime(cluster) if cluster else None,
    )
    return define(pipeline)


def _parameters(modalities: Sequence[str]) -> dict[str, Parameter]:
    """The pipeline's parameters: the sections and, last, the run's context. KFP reads them from the function's signature."""
    kind = Parameter.POSITIONAL_OR_KEYWORD
    found = {name: Parameter(name, kind, annotation=dict) for name in sections_with(modalities)}
    return {**found, "run": Parameter("run", kind, annotation=dict, default={})}


def _docstring(modalities: Sequence[str]) -> str:
    """What KFP's page shows of the parameters."""
    meanings = {
        "data": "section of the configuration, complete or in part, as are all following ones.",
        "validation": "thresholds of the data validation.",
        **{name: f"the {name} encoder and its fine-tuning." for name in modalities},
        "mixture": "the mixture of experts and its training.",
        "evaluation": "settings of the evaluation and its intervals.",
        "gate": "thresholds of the gate's rules.",
        "registry": "names in the model registry.",
        "deployment": "the inference service and its smoke test.",
        "run": "the run's context, which mistere submit passes complete; otherwise store, tracking server and data come from the "
        "ConfigMap mistere-settings, and the id from Kubeflow Pipelines.",
    }
    arguments = "\n".join(f"    {name}: {meaning}" for name, meaning in meanings.items())
    return f"Retrain the model and, if the gate promotes it, release it.\n\nArgs:\n{arguments}\n"


def _steps(
    inputs: PipelineTask,
    modalities: Sequence[str],
    cluster: ClusterConfig | None,
    one_shard: Collection[str],
    transcribing: bool,
) -> None:
    """Define the steps from the data to the release.

    Args:
        inputs: the task ``resolve_inputs``.
        modalities: names of the modalities.
        cluster: Kubernetes settings of the steps; None for a local run.
        one_shard: modalities that are compiled with a single shard, for which one pod embeds all utterances.
        transcribing: whether utterances without text are transcribed.
    """
    context, champion = inputs.outputs["context"], inputs.outputs["champion_digest"]
    anchor = inputs.outputs["anchor_digest"]
    section = {name: inputs.outputs[f"{name}_section"] for name in sections_with(modalities)}
    validated = checked_data(context, section, inputs.outputs["data_digest"], champion, cluster)
    utterances = validated.outputs["accepted"]
    with dsl.If(validated.outputs["Output"] != "reject", name="data-passes"):
        if transcribing:
            completed = transcribe(run=context, data=section["data"], utterances=utterances)
            pod_settings.apply(completed, cluster, "transcribe")
            utterances = completed.outputs["transcribed"]
        encoders, vectors = {}, {}
        for modality in modalities:
            config = section[modality]
            tuned = finetune_encoder(run=context, config=config, modality=modality, utterances=utterances)
            pod_settings.apply(tuned, cluster, "finetune_encoder", modality)
            tuned.set_display_name(f"finetune-encoder ({modality})")
            encoder = encoders[f"{modality}_encoder"] = tuned.outputs["encoder"]
            arguments = {"run": context, "modality": modality, "utterances": utterances}
            if modality in one_shard:
                embedded = embed_utterances(config=config, encoder=encoder, **arguments)
                pod_settings.apply(embedded, cluster, "embed_shard", modality)
                embedded.set_display_name(f"embed-shard ({modality})")
            else:
                with dsl.ParallelFor(inputs.outputs[f"{modality}_shards"], name=f"{modality}-shards") as item:
                    shard = embed_shard(config=config, item=item, encoder=encoder, **arguments)
                    pod_settings.apply(shard, cluster, "embed_shard", modality)
                    shard.set_display_name(f"embed-shard ({modality})")
                embedded = extract_embeddings(shards=dsl.Collected(shard.outputs["vectors"]), **arguments)
                pod_settings.apply(embedded, cluster, "extract_embeddings", modality)
                embedded.set_display_name(f"extract-embeddings ({modality})")
            vectors[f"{modality}_vectors"] = embedded.outputs["embeddings"]
        model = train_moe(modalities)(run=context, mixture=section["mixture"], **vectors)
        pod_settings.apply(model, cluster, "train_moe")
        evaluated, judged = evaluated_and_judged(
            modalities,
            context,
            section,
            champion,
            anchor,
            inputs.outputs["code_state"],
            validated,
            utterances,
            model,
            {**encoders, **vectors},
            cluster,
        )
        # What the gate holds waits for a person.
        with dsl.If(judged.outputs["Output"] != "reject", name="not-rejected"):
            registered = register_model(modalities)(
                run=context,
                registry=section["registry"],
                utterances=utterances,
                profile=validated.outputs["profile"],
                model=model.outputs["model"],
                report=evaluated.outputs["report"],
                verdict=judged.outputs["verdict"],
                **encoders,
            )
            pod_settings.apply(registered, cluster, "register_model")
            with dsl.If(registered.outputs["Output"] == "release", name="release"):
                deployed = deploy_model(
                    run=context,
                    deployment=section["deployment"],
                    model_version=registered.outputs["model_version"],
                    champion_digest=champion,
                    report=evaluated.outputs["report"],
                    bundle=registered.outputs["bundle"],
                )
                pod_settings.apply(deployed, cluster, "deploy_model")
                if cluster is None:  # locally there is no service: the step runs a predictor for the smoke test
                    deployed.set_container_image(image("train"))
