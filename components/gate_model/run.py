"""``gate_model``: evaluate every rule; one rejection rejects, one hold holds, and only full agreement promotes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

from components.gate_model.config import GateConfig
from components.gate_model.verdict import overall
from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import EvaluationReport, GateVerdict, ValidationReport
from mistere.config.gate import RuleThresholds
from mistere.engine.stage import Result, Stage, Step
from mistere.registry.release.champion import NO_CHAMPION

STAGE = Stage(
    name="gate_model",
    config=GateConfig,
    inputs={"validation": ValidationReport, "report": EvaluationReport},
    outputs={"verdict": GateVerdict},
    reports={"verdict": ("verdict.json",)},
)


def run(
    config: RuleThresholds,
    step: Step,
    validation: ArtifactHandle[ValidationReport],
    report: ArtifactHandle[EvaluationReport],
    verdict: Path,
    champion_digest: str,
    anchor_digest: str,
    code_state: str,
    student_margin: str = "",
) -> Result:
    """Evaluate every rule, or those for a student.

    Args:
        config: the thresholds of all rules.
        step: this execution.
        validation: the dataset's validation.
        report: the candidate's evaluation, and those of champion and anchor on the same test split.
        verdict: folder of the output artifact.
        champion_digest: the champion's bundle, or ``none``.
        anchor_digest: the anchor's bundle, or ``none``.
        code_state: whether a commit contains the code that made the candidate, and the files with uncommitted changes.
        student_margin: for a student, whose teacher is in the champion's place: by how much weighted F1 may be below the teacher's; empty
            for other models.
    """
    if student_margin:
        from components.gate_model.student import decide_student

        margin = float(student_margin)
        decided = decide_student(config, report.manifest, validation.manifest, champion_digest, margin, code_state)
    else:
        decided = decide(
            config, report.manifest, validation.manifest, champion_digest, code_state, anchor_digest=anchor_digest
        )
    results = [result.model_dump() for result in decided.rules]
    (verdict / "verdict.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    return Result(manifests={"verdict": decided}, values={"verdict": decided.verdict})


def decide(
    config: RuleThresholds,
    evaluation: EvaluationReport,
    validation: ValidationReport | None,
    champion_digest: str,
    code_state: str,
    *,
    anchor_digest: str = NO_CHAMPION,
    takes_vectors: bool = False,
) -> GateVerdict:
    """Evaluate every rule on a candidate.

    Args:
        config: the thresholds of all rules.
        evaluation: of the candidate, and of champion and anchor on the same test split.
        validation: the dataset's validation; None if it was not validated.
        champion_digest: the champion's bundle, or ``none``.
        code_state: as for :func:`run`.
        anchor_digest: the anchor's bundle, or ``none``.
        takes_vectors: whether the candidate has no encoders.
    """
    from components.gate_model.candidate import Candidate, CodeState
    from components.gate_model.rules import rules

    code, _, uncommitted = code_state.partition(": ")
    candidate = Candidate(
        metrics=evaluation.metrics,
        runtime=evaluation.runtime,
        labels=evaluation.labels,
        experts=evaluation.experts,
        test_digest=evaluation.test_digest,
        champion_digest="" if champion_digest == NO_CHAMPION else champion_digest,
        champion=evaluation.champion,
        anchor_digest="" if anchor_digest == NO_CHAMPION else anchor_digest,
        anchor=evaluation.anchor,
        data_verdict=validation.verdict if validation else "unknown",
        data_warnings=validation.warnings if validation else (),
        code=cast(CodeState, code),
        uncommitted=uncommitted,
        takes_vectors=takes_vectors,
    )
    results = [rule.decide(candidate, config) for rule in rules().values()]
    return GateVerdict(verdict=overall(results), rules=results)
