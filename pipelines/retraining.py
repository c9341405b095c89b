"""The pipeline definition, run by KFP's local runner or compiled for Kubeflow Pipelines.

Each stage gets its section of the configuration and the run's context; artifacts are passed as references. A verdict is a
component's single ``Output``, because the local runner supports conditions on no other name. With the ``cluster`` section,
the definition also sets each step's Kubernetes settings (:mod:`pipelines.pod_settings`).
"""

from collections.abc import Mapping
from typing import Any

from kfp import dsl
from kfp.dsl.graph_component import GraphComponent

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
        report = pod_settings.apply(
            report_run(run=run, job=job, compiled=compiled_registry, registry=registry), cluster, "report_run"
        )
        report.set_caching_options(False)
        with dsl.ExitHandler(report, name="run"):
            inputs = pod_settings.apply(
                resolve_inputs(
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
                ),
                cluster,
                "resolve_inputs",
            )
            inputs.set_caching_options(False)
            context = inputs.outputs["context"]
            champion = inputs.outputs["champion_digest"]
            section = {name: inputs.outputs[f"{name}_section"] for name in SECTIONS}
            pulled = pod_settings.apply(
                pull_data(run=context, data=section["data"], data_digest=inputs.outputs["data_digest"]),
                cluster,
                "pull_data",
            ).outputs["utterances"]
            validated = pod_settings.apply(
                validate_data(
                    run=context, validation=section["validation"], champion_digest=champion, utterances=pulled
                ),
                cluster,
                "validate_data",
            )
            utterances = validated.outputs["accepted"]
            with dsl.If(validated.outputs["Output"] != "reject", name="data-passes"):
                encoders, vectors = {}, {}
                for modality in MODALITIES:
                    config = section[modality]
                    tuned = pod_settings.apply(
                        finetune_encoder(run=context, config=config, modality=modality, utterances=utterances),
                        cluster,
                        "finetune_encoder",
                        modality,
                    )
                    tuned.set_display_name(f"finetune-encoder ({modality})")
                    encoders[modality] = tuned.outputs["encoder"]
                    with dsl.ParallelFor(inputs.outputs[f"{modality}_shards"], name=f"{modality}-shards") as item:
                        shard = pod_settings.apply(
                            embed_shard(
                                run=context,
                                config=config,
                                modality=modality,
                                item=item,
                                utterances=utterances,
                                encoder=encoders[modality],
                            ),
                            cluster,
                            "embed_shard",
                            modality,
                        )
                        shard.set_display_name(f"embed-shard ({modality})")
                    embedded = pod_settings.apply(
                        extract_embeddings(
                            run=context,
                            modality=modality,
                            utterances=utterances,
                            shards=dsl.Collected(shard.outputs["vectors"]),
                        ),
                        cluster,
                        "extract_embeddings",
                        modality,
                    )
                    embedded.set_display_name(f"extract-embeddings ({modality})")
                    vectors[modality] = embedded.outputs["embeddings"]
                model = pod_settings.apply(
                    train_moe(run=context, mixture=section["mixture"], **vectors), cluster, "train_moe"
                ).outputs["model"]
                evaluated = pod_settings.apply(
                    evaluate_model(
                        run=context,
                        evaluation=section["evaluation"],
                        champion_digest=champion,
                        utterances=utterances,
                        model=model,
                        speech_encoder=encoders["speech"],
                        text_encoder=encoders["text"],
                        **vectors,
                    ),
                    cluster,
                    "evaluate_model",
                ).outputs["report"]
                judged = pod_settings.apply(
                    gate_model(
                        run=context,
                        gate=section["gate"],
                        champion_digest=champion,
                        code_state=inputs.outputs["code_state"],
                        validation=validated.outputs["report"],
                        report=evaluated,
                    ),
                    cluster,
                    "gate_model",
                )
                with dsl.If(judged.outputs["Output"] == "promote", name="gate-promotes"):
                    registered = register_model(
                        run=context,
                        registry=section["registry"],
                        utterances=utterances,
                        profile=validated.outputs["profile"],
                        model=model,
                        report=evaluated,
                        verdict=judged.outputs["verdict"],
                        **encoders,
                    )
                    pod_settings.apply(registered, cluster, "register_model").set_caching_options(False)
                    deployed = deploy_model(
                        run=context,
                        deployment=section["deployment"],
                        model_version=registered.outputs["Output"],
                        champion_digest=champion,
                        report=evaluated,
                        bundle=registered.outputs["bundle"],
                    )
                    pod_settings.apply(deployed, cluster, "deploy_model").set_caching_options(False)
                    if cluster is None:  # locally there is no service: the step runs a predictor for the smoke test
                        deployed.set_container_image(image("train"))

    return pipeline
