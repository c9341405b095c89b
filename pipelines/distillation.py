"""The distillation pipeline: a small student of a released model, run by KFP's local runner or compiled for Kubeflow Pipelines.

``plan_distillation`` pins the teacher and its data; the steps are those of ``mistere distill``, and give the same student. The gate
compares it with its teacher, and ``register_model`` makes it a version that waits for a person. The exit handler ``report_run`` writes
the report of the run and notifies the webhook, as in the retraining pipeline.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from kfp import dsl
from kfp.dsl.graph_component import GraphComponent

from components.distill_encoder.component import distill_encoder
from components.distill_mixture.component import distill_mixture
from components.open_teacher.component import open_teacher
from components.plan_distillation.component import plan_distillation
from components.plan_distillation.run import SECTIONS
from components.register_model.component import register_model
from components.report_run.component import report_run
from mistere.config.cluster import ClusterConfig
from mistere.config.modalities import DEFAULT_MODALITIES
from mistere.registry.release.champion import NO_CHAMPION
from pipelines import pod_settings
from pipelines.combined_components import embed_utterances
from pipelines.shared_steps import checked_data, evaluated_and_judged


def distillation(
    modalities: Sequence[str] = DEFAULT_MODALITIES,
    cluster: ClusterConfig | None = None,
    profile: str = "",
    sections: Mapping[str, Any] | None = None,
    *,
    bundle_key: str = "",
) -> GraphComponent:
    """Define the pipeline.

    Args:
        modalities: names of the modalities that a teacher may have.
        cluster: Kubernetes settings of the steps; None for a local run.
        profile: name of the profile that the pipeline is compiled from.
        sections: the profile's complete sections by name, which complete the parameters of a run; None for a local run.
        bundle_key: ``deployment.bundle_key``, by which the teacher must be signed; empty for none.
    """
    compiled: dict[str, Any] = {"profile": profile, "sections": dict(sections or {}), "modalities": list(modalities)}
    if bundle_key:
        compiled["bundle_key"] = bundle_key
    compiled_registry = {"profile": profile, "sections": {"registry": (sections or {}).get("registry", {})}}

    def pipeline(
        distillation: dict,  # type: ignore[type-arg]
        validation: dict,  # type: ignore[type-arg]
        evaluation: dict,  # type: ignore[type-arg]
        gate: dict,  # type: ignore[type-arg]
        registry: dict,  # type: ignore[type-arg]
        run: dict = {},  # type: ignore[type-arg]  # noqa: B006  (KFP reads the signature)
    ) -> None:
        """Make a small student of a released model, and register it as a version that waits for a person.

        Args:
            distillation: section of the configuration, complete or in part, as are all following ones.
            validation: thresholds of the data validation.
            evaluation: settings of the evaluation and its intervals.
            gate: thresholds of the gate's rules, of which those on code and data count for a student.
            registry: names in the model registry.
            run: the run's context, which mistere submit passes complete; otherwise store and tracking server come from the ConfigMap
                mistere-settings, and the id from Kubeflow Pipelines.
        """
        job = dsl.PIPELINE_JOB_ID_PLACEHOLDER
        report = report_run(run=run, job=job, compiled=compiled_registry, registry=registry)
        with dsl.ExitHandler(pod_settings.apply(report, cluster, "report_run"), name="run"):
            plan = plan_distillation(
                run=run,
                job=job,
                compiled=compiled,
                distillation=distillation,
                validation=validation,
                evaluation=evaluation,
                gate=gate,
                registry=registry,
            )
            pod_settings.apply(plan, cluster, "plan_distillation")
            context, teacher_digest = plan.outputs["context"], plan.outputs["teacher_digest"]
            section = {name: plan.outputs[f"{name}_section"] for name in ("data", *SECTIONS)}
            validated = checked_data(context, section, plan.outputs["data_digest"], NO_CHAMPION, cluster)
            utterances = validated.outputs["accepted"]
            with dsl.If(validated.outputs["Output"] != "reject", name="data-passes"):
                teacher = open_teacher(modalities)(
                    run=context,
                    distillation=section["distillation"],
                    teacher_digest=teacher_digest,
                    utterances=utterances,
                )
                pod_settings.apply(teacher, cluster, "open_teacher")
                encoders, vectors, taught = {}, {}, {}
                for modality in modalities:
                    arguments = {"run": context, "config": {}, "modality": modality, "utterances": utterances}
                    embedded = embed_utterances(encoder=teacher.outputs[f"{modality}_encoder"], **arguments)
                    pod_settings.apply(embedded, cluster, "embed_shard", modality)
                    embedded.set_display_name(f"embed-shard ({modality})")
                    taught[f"{modality}_teacher_vectors"] = embedded.outputs["embeddings"]
                    distilled = distill_encoder(
                        run=context,
                        config=section["distillation"],
                        modality=modality,
                        utterances=utterances,
                        teacher=teacher.outputs[f"{modality}_encoder"],
                        vectors=embedded.outputs["embeddings"],
                    )
                    pod_settings.apply(distilled, cluster, "distill_encoder", modality)
                    distilled.set_display_name(f"distill-encoder ({modality})")
                    encoder = encoders[f"{modality}_encoder"] = distilled.outputs["encoder"]
                    student = embed_utterances(encoder=encoder, student=True, **arguments)
                    pod_settings.apply(student, cluster, "embed_shard", modality)
                    student.set_display_name(f"embed-shard ({modality}, student)")
                    vectors[f"{modality}_vectors"] = student.outputs["embeddings"]
                model = distill_mixture(modalities)(
                    run=context,
                    distillation=section["distillation"],
                    teacher=teacher.outputs["model"],
                    **taught,
                    **vectors,
                )
                pod_settings.apply(model, cluster, "distill_mixture")
                evaluated, judged = evaluated_and_judged(
                    modalities,
                    context,
                    section,
                    teacher_digest,
                    NO_CHAMPION,
                    plan.outputs["code_state"],
                    validated,
                    utterances,
                    model,
                    {**encoders, **vectors},
                    cluster,
                    student_margin=plan.outputs["margin"],
                )
                with dsl.If(judged.outputs["Output"] != "reject", name="not-rejected"):
                    registered = register_model(modalities)(
                        run=context,
                        registry=section["registry"],
                        distillation=section["distillation"],
                        teacher_digest=teacher_digest,
                        utterances=utterances,
                        profile=validated.outputs["profile"],
                        model=model.outputs["model"],
                        report=evaluated.outputs["report"],
                        verdict=judged.outputs["verdict"],
                        **encoders,
                    )
                    pod_settings.apply(registered, cluster, "register_model")

    define = dsl.pipeline(
        name="mistere-distillation",
        description="Make a small student of the released model, and register it.",
        pipeline_config=pod_settings.lifetime(cluster) if cluster else None,
    )
    return define(pipeline)
