"""The pipeline definition, run by KFP's local runner or compiled for Kubeflow Pipelines.

Each stage gets its section of the configuration and the run's context; artifacts are passed as references. A verdict is a
component's single ``Output``, because the local runner supports conditions on no other name. With the ``cluster`` section,
the definition also sets each step's Kubernetes settings (:mod:`pipelines.pod_settings`).
"""

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
from mistere.config.cluster import ClusterConfig
from mistere.kubernetes.images import image
from pipelines import pod_settings


def retraining(cluster: ClusterConfig | None = None) -> GraphComponent:
    """Define the pipeline.

    Args:
        cluster: Kubernetes settings of the steps; None for a local run.
    """

    @dsl.pipeline(
        name="mistere-retraining",
        description="Pull, validate, fine-tune, embed, train, evaluate, gate, register, deploy.",
        pipeline_config=pod_settings.lifetime(cluster) if cluster else None,
    )
    def pipeline(
        run: dict,
        data: dict,
        validation: dict,
        speech: dict,
        text: dict,
        mixture: dict,
        evaluation: dict,
        gate: dict,
        registry: dict,
        deployment: dict,
    ) -> None:
        """Retrain the model and, if the gate promotes it, release it.

        Args:
            run: the run's context: id, store, tracking server, data remote and digest; fields that a schedule
                leaves empty are filled in by ``resolve_inputs``, whose output the other steps use.
            data: section of the configuration, as are all following arguments.
            validation: thresholds of the data validation.
            speech: the speech encoder and its fine-tuning.
            text: the text encoder and its fine-tuning.
            mixture: the mixture of experts and its training.
            evaluation: settings of the evaluation and its intervals.
            gate: thresholds of the gate's rules.
            registry: names in the model registry.
            deployment: the inference service and its smoke test.
        """
        job = dsl.PIPELINE_JOB_ID_PLACEHOLDER
        report = pod_settings.apply(report_run(run=run, job=job, registry=registry), cluster, "report_run")
        report.set_caching_options(False)
        with dsl.ExitHandler(report, name="run"):
            inputs = pod_settings.apply(
                resolve_inputs(run=run, job=job, data=data, speech=speech, text=text, deployment=deployment),
                cluster,
                "resolve_inputs",
            )
            inputs.set_caching_options(False)
            context = inputs.outputs["context"]
            champion = inputs.outputs["champion_digest"]
            pulled = pod_settings.apply(
                pull_data(run=context, data=data, data_digest=inputs.outputs["data_digest"]), cluster, "pull_data"
            ).outputs["utterances"]
            validated = pod_settings.apply(
                validate_data(run=context, validation=validation, champion_digest=champion, utterances=pulled),
                cluster,
                "validate_data",
            )
            utterances = validated.outputs["accepted"]
            with dsl.If(validated.outputs["Output"] != "reject", name="data-passes"):
                encoders, vectors = {}, {}
                for modality, config in (("speech", speech), ("text", text)):
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
                    train_moe(run=context, mixture=mixture, **vectors), cluster, "train_moe"
                ).outputs["model"]
                evaluated = pod_settings.apply(
                    evaluate_model(
                        run=context,
                        evaluation=evaluation,
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
                        gate=gate,
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
                        registry=registry,
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
                        deployment=deployment,
                        model_version=registered.outputs["Output"],
                        champion_digest=champion,
                        report=evaluated,
                        bundle=registered.outputs["bundle"],
                    )
                    pod_settings.apply(deployed, cluster, "deploy_model").set_caching_options(False)
                    if cluster is None:  # locally there is no service: the step runs a predictor for the smoke test
                        deployed.set_container_image(image("train"))

    return pipeline
