"""The pipeline definition, run by KFP's local runner or compiled for Kubeflow Pipelines.

Each stage gets its section of the configuration and the run's context; artifacts are passed as references. A verdict is a
component's single ``Output``, because the local runner supports conditions on no other name. With the ``cluster`` section,
the definition also sets each step's Kubernetes settings (:mod:`pipelines.pod_settings`).

On Kubeflow Pipelines each step costs two pods and each condition or loop one, so the compiled definition is shorter where it can
be: a run whose steps are all finished goes straight to the release, and a modality with a single shard has no loop.
"""

from collections.abc import Collection, Mapping
from typing import Any

from kfp import dsl
from kfp.dsl.graph_component import GraphComponent
from kfp.dsl.pipeline_task import PipelineTask

from components.deploy_model.component import deploy_model
from components.embed_shard.component import embed_shard
from components.evaluate_model.component import evaluate_model
from components.extract_embeddings.component import extract_embeddings
from components.finetune_encoder.component import finetune_encoder
from components.gate_model.component import gate_model
from components.pull_data.component import pull_data
from components.register_model.component import register_model
from components.report_run.component import report_run
from components.resolve_inputs.component import resolve_inputs
from components.train_moe.component import train_moe
from components.validate_data.component import validate_data
from mistere.common.modalities import MODALITIES
from mistere.config.cluster import ClusterConfig
from mistere.config.loader import SECTIONS
from mistere.kubernetes.images import image
from pipelines import pod_settings
from pipelines.combined_components import embed_utterances, release_finished


def retraining(
    cluster: ClusterConfig | None = None, profile: str = "", sections: Mapping[str, Any] | None = None
) -> GraphComponent:
    """Define the pipeline.

    Args:
        cluster: Kubernetes settings of the steps; None for a local run.
        profile: name of the profile that the pipeline is compiled from.
        sections: the profile's complete sections by name, which complete the parameters of a run; None for a local run.
    """
    compiled = {"profile": profile, "sections": dict(sections or {})}
    compiled_registry = {"profile": profile, "sections": {"registry": (sections or {}).get("registry", {})}}

    @dsl.pipeline(
        name="mistere-retraining",
        description="Pull, validate, fine-tune, embed, train, evaluate, gate, register, deploy.",
        pipeline_config=pod_settings.lifetime(cluster) if cluster else None,
    )
    def pipeline(
        data: dict,
        validation: dict,
        speech: dict,
        text: dict,
        mixture: dict,
        evaluation: dict,
        gate: dict,
        registry: dict,
        deployment: dict,
        run: dict = {},  # noqa: B006 (KFP copies it into the pipeline's definition)
    ) -> None:
        """Retrain the model and, if the gate promotes it, release it.

        Args:
            data: section of the configuration, complete or in part, as are all following ones.
            validation: thresholds of the data validation.
            speech: the speech encoder and its fine-tuning.
            text: the text encoder and its fine-tuning.
            mixture: the mixture of experts and its training.
            evaluation: settings of the evaluation and its intervals.
            gate: thresholds of the gate's rules.
            registry: names in the model registry.
            deployment: the inference service and its smoke test.
            run: the run's context, which mistere submit passes complete; otherwise store, tracking server and data come from the
                ConfigMap mistere-settings, and the id from Kubeflow Pipelines.
        """
        job = dsl.PIPELINE_JOB_ID_PLACEHOLDER
        report = report_run(run=run, job=job, compiled=compiled_registry, registry=registry)
        with dsl.ExitHandler(pod_settings.apply(report, cluster, "report_run"), name="run"):
            inputs = resolve_inputs(
                run=run,
                job=job,
                compiled=compiled,
                data=data,
                validation=validation,
                speech=speech,
                text=text,
                mixture=mixture,
                evaluation=evaluation,
                gate=gate,
                registry=registry,
                deployment=deployment,
            )
            pod_settings.apply(inputs, cluster, "resolve_inputs")
            if not sections:  # a local run, in which a step costs a tenth of a second
                _steps(inputs, cluster, one_shard=set())
                return
            with dsl.If(inputs.outputs["Output"] == "work", name="work-to-do"):
                _steps(inputs, cluster, {name for name in MODALITIES if sections[name]["extraction"]["shards"] == 1})
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

    return pipeline


def _steps(inputs: PipelineTask, cluster: ClusterConfig | None, one_shard: Collection[str]) -> None:
    """Define the steps from the data to the release.

    Args:
        inputs: the task ``resolve_inputs``.
        cluster: Kubernetes settings of the steps; None for a local run.
        one_shard: modalities that are compiled with a single shard, for which one pod embeds all utterances.
    """
    context, champion = inputs.outputs["context"], inputs.outputs["champion_digest"]
    section = {name: inputs.outputs[f"{name}_section"] for name in SECTIONS}
    pulled = pull_data(run=context, data=section["data"], data_digest=inputs.outputs["data_digest"])
    pod_settings.apply(pulled, cluster, "pull_data")
    validated = validate_data(
        run=context,
        validation=section["validation"],
        champion_digest=champion,
        utterances=pulled.outputs["utterances"],
    )
    pod_settings.apply(validated, cluster, "validate_data")
    utterances = validated.outputs["accepted"]
    with dsl.If(validated.outputs["Output"] != "reject", name="data-passes"):
        encoders, vectors = {}, {}
        for modality in MODALITIES:
            config = section[modality]
            tuned = finetune_encoder(run=context, config=config, modality=modality, utterances=utterances)
            pod_settings.apply(tuned, cluster, "finetune_encoder", modality)
            tuned.set_display_name(f"finetune-encoder ({modality})")
            encoders[modality] = tuned.outputs["encoder"]
            arguments = {"run": context, "modality": modality, "utterances": utterances}
            if modality in one_shard:
                embedded = embed_utterances(config=config, encoder=encoders[modality], **arguments)
                pod_settings.apply(embedded, cluster, "embed_shard", modality)
                embedded.set_display_name(f"embed-shard ({modality})")
            else:
                with dsl.ParallelFor(inputs.outputs[f"{modality}_shards"], name=f"{modality}-shards") as item:
                    shard = embed_shard(config=config, item=item, encoder=encoders[modality], **arguments)
                    pod_settings.apply(shard, cluster, "embed_shard", modality)
                    shard.set_display_name(f"embed-shard ({modality})")
                embedded = extract_embeddings(shards=dsl.Collected(shard.outputs["vectors"]), **arguments)
                pod_settings.apply(embedded, cluster, "extract_embeddings", modality)
                embedded.set_display_name(f"extract-embeddings ({modality})")
            vectors[modality] = embedded.outputs["embeddings"]
        model = train_moe(run=context, mixture=section["mixture"], **vectors)
        pod_settings.apply(model, cluster, "train_moe")
        evaluated = evaluate_model(
            run=context,
            evaluation=section["evaluation"],
            champion_digest=champion,
            utterances=utterances,
            model=model.outputs["model"],
            speech_encoder=encoders["speech"],
            text_encoder=encoders["text"],
            **vectors,
        )
        pod_settings.apply(evaluated, cluster, "evaluate_model")
        judged = gate_model(
            run=context,
            gate=section["gate"],
            champion_digest=champion,
            code_state=inputs.outputs["code_state"],
            validation=validated.outputs["report"],
            report=evaluated.outputs["report"],
        )
        pod_settings.apply(judged, cluster, "gate_model")
        with dsl.If(judged.outputs["Output"] == "promote", name="gate-promotes"):
            registered = register_model(
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
            deployed = deploy_model(
                run=context,
                deployment=section["deployment"],
                model_version=registered.outputs["Output"],
                champion_digest=champion,
                report=evaluated.outputs["report"],
                bundle=registered.outputs["bundle"],
            )
            pod_settings.apply(deployed, cluster, "deploy_model")
            if cluster is None:  # locally there is no service: the step runs a predictor for the smoke test
                deployed.set_container_image(image("train"))
