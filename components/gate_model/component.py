"""The KFP component ``gate_model``."""

from kfp import dsl
from kfp.dsl import Input, Output

from mistere.artifacts.kfp_types import EvaluationReportArtifact, GateVerdictArtifact, ValidationReportArtifact
from mistere.kubernetes.images import image


@dsl.component(base_image=image("pipeline"), install_kfp_package=False)
def gate_model(
    run: dict,
    gate: dict,
    champion_digest: str,
    anchor_digest: str,
    code_state: str,
    validation: Input[ValidationReportArtifact],
    report: Input[EvaluationReportArtifact],
    verdict: Output[GateVerdictArtifact],
    student_margin: str = "",
) -> str:
    """Decide whether the candidate is released.

    Args:
        run: the run's context.
        gate: the ``gate`` section.
        champion_digest: the champion's bundle, or ``none``.
        anchor_digest: the bundle of the anchor (``gate.anchor``), or ``none``.
        code_state: whether a commit contains the code: ``committed``, ``uncommitted`` (with the files: ``uncommitted: a.py``)
            or ``unknown``.
        validation: the dataset's validation.
        report: the candidate's evaluation.
        verdict: the verdict with its reasons.
        student_margin: for a student, whose teacher is in the champion's place: by how much weighted F1 may be below the teacher's.

    Returns:
        ``promote``, ``hold`` or ``reject``.
    """
    from components.gate_model.run import STAGE
    from mistere.engine.execution import execute

    values = execute(
        STAGE,
        run,
        gate,
        inputs={"validation": validation.path, "report": report.path},
        outputs={"verdict": verdict.path},
        external_inputs={
            "champion_digest": champion_digest,
            "anchor_digest": anchor_digest,
            "code_state": code_state,
            **({"student_margin": student_margin} if student_margin else {}),
        },
    )
    return values["verdict"]
