"""The KFP component ``plan_distillation``."""

from typing import NamedTuple

from kfp import dsl

from mistere.kubernetes.images import image


@dsl.component(base_image=image("pipeline"), install_kfp_package=False)
def plan_distillation(
    run: dict,
    job: str,
    compiled: dict,
    distillation: dict,
    validation: dict,
    evaluation: dict,
    gate: dict,
    registry: dict,
) -> NamedTuple(  # type: ignore[valid-type]
    "Outputs",
    [
        ("context", dict),
        ("teacher_digest", str),
        ("data_digest", str),
        ("margin", str),
        ("code_state", str),
        ("data_section", dict),
        ("distillation_section", dict),
        ("validation_section", dict),
        ("evaluation_section", dict),
        ("gate_section", dict),
        ("registry_section", dict),
    ],
):
    """Complete the run's parameters, and resolve the teacher and its data to digests.

    Args:
        run: the run's context, as submitted; what it lacks comes from the ConfigMap ``mistere-settings``.
        job: the id of the run in Kubeflow Pipelines.
        compiled: the profile and the modalities that the pipeline was compiled for; the profile completes the sections.
        distillation: section of the configuration, complete or in part, as are all following ones.
        validation: thresholds of the data validation.
        evaluation: settings of the evaluation and its intervals.
        gate: thresholds of the gate's rules, of which those on code and data count for a student.
        registry: names in the model registry.

    Returns:
        context: the run's context with the data resolved.
        teacher_digest: the bundle to learn from.
        data_digest: the DVC digest that the run is pinned to.
        margin: by how much weighted F1 may be below the teacher's.
        code_state: as of ``resolve_inputs``.
        data_section: the limits of the teacher's data.
        distillation_section: the complete section, as are the following outputs.
        validation_section: likewise.
        evaluation_section: likewise.
        gate_section: likewise.
        registry_section: likewise.
    """
    from components.plan_distillation.run import plan

    given = {
        "distillation": distillation,
        "validation": validation,
        "evaluation": evaluation,
        "gate": gate,
        "registry": registry,
    }
    context, values, data, sections = plan(run, job, compiled, given)
    pinned = [values[name] for name in ("teacher_digest", "data_digest", "margin", "code_state")]
    return context, *pinned, data, *(sections[name] for name in given)
