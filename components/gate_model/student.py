"""The verdict on a student: the paired comparison with its teacher, and the rules that do not depend on a champion."""

from __future__ import annotations

from typing import cast

from components.gate_model.candidate import Candidate, CodeState
from components.gate_model.paired_comparison import PairedComparison
from components.gate_model.rules import rules
from components.gate_model.rules.champion_comparison import DIFFERENCE
from components.gate_model.rules.committed_code import NAME as COMMITTED_CODE
from components.gate_model.rules.data_verdict import NAME as DATA_VERDICT
from components.gate_model.verdict import overall
from mistere.artifacts.manifests import EvaluationReport, GateVerdict, ValidationReport
from mistere.config.gate import RuleThresholds
from mistere.registry.release.candidates import TEACHER_COMPARISON

_COMPARISON = PairedComparison(TEACHER_COMPARISON, "teacher", DIFFERENCE, rejects="beyond_margin")


def decide_student(
    config: RuleThresholds,
    evaluation: EvaluationReport,
    validation: ValidationReport | None,
    teacher_digest: str,
    margin: float,
    code_state: str,
) -> GateVerdict:
    """Whether a student is at most ``margin`` of weighted F1 below its teacher, of committed code and of accepted data.

    Args:
        config: the thresholds of all rules.
        evaluation: of the student, with the teacher's as the champion's.
        validation: of the dataset; None if the student learnt from the data that its teacher was made with.
        teacher_digest: the teacher's bundle.
        margin: by how much the student may be worse.
        code_state: as for :func:`components.gate_model.run.run`.

    Returns:
        The verdict; its first rule is the comparison.
    """
    code, _, uncommitted = code_state.partition(": ")
    candidate = Candidate(
        metrics=evaluation.metrics,
        labels=evaluation.labels,
        test_digest=evaluation.test_digest,
        data_verdict=validation.verdict if validation else "unknown",
        data_warnings=validation.warnings if validation else (),
        code=cast(CodeState, code),
        uncommitted=uncommitted,
    )
    results = [_COMPARISON.evaluate(candidate, teacher_digest, evaluation.champion, margin, superior=False)]
    used = (DATA_VERDICT, COMMITTED_CODE) if validation else (COMMITTED_CODE,)
    results += [rules()[name].decide(candidate, config) for name in used]
    return GateVerdict(verdict=overall(results), rules=results)
