"""``gate_model``: every rule judges; one reject rejects, one hold holds, and only agreement promotes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, cast

from mistere.artifacts.io import ArtifactHandle
from mistere.artifacts.manifests import EvaluationReport, GateVerdict, RuleResult, ValidationReport
from mistere.config.gate import GateConfig
from mistere.engine.stage import Result, Stage, Step
from mistere.registry.champion import NO_CHAMPION

STAGE = Stage(
    name="gate_model",
    config=GateConfig,
    inputs={"validation": ValidationReport, "report": EvaluationReport},
    outputs={"verdict": GateVerdict},
    reports={"verdict": ("verdict.json",)},
)


def run(
    config: GateConfig,
    step: Step,
    validation: ArtifactHandle[ValidationReport],
    report: ArtifactHandle[EvaluationReport],
    verdict: Path,
    champion_digest: str,
    code_state: str,
) -> Result:
    """Judge.

    Args:
        config: the thresholds.
        step: this execution.
        validation: what was said of the dataset.
        report: the candidate's evaluation, and the champion's on the same test split.
        verdict: folder of the output artifact.
        champion_digest: the champion's bundle, or ``none``.
        code_state: whether a commit holds the code that made the candidate.
    """
    from components.gate_model.candidate import Candidate, CodeState
    from components.gate_model.rules import rules

    evaluated = report.manifest
    candidate = Candidate(
        metrics=evaluated.metrics,
        thresholds=config,
        runtime=evaluated.runtime,
        labels=evaluated.labels,
        experts=evaluated.experts,
        test_digest=evaluated.test_digest,
        champion_digest="" if champion_digest == NO_CHAMPION else champion_digest,
        champion=evaluated.champion,
        data_verdict=validation.manifest.verdict,
        data_warnings=validation.manifest.warnings,
        code=cast(CodeState, code_state),
    )
    results = [rule(candidate) for rule in rules().values()]
    answer = overall(results)
    (verdict / "verdict.json").write_text(
        json.dumps([result.model_dump() for result in results], indent=1), encoding="utf-8"
    )
    return Result(manifests={"verdict": GateVerdict(verdict=answer, rules=results)}, values={"verdict": answer})


def overall(results: list[RuleResult]) -> Literal["promote", "hold", "reject"]:
    """One reject rejects, one hold holds; where no rule was asked it holds, for nothing was judged."""
    outcomes = {result.outcome for result in results} - {"off"}
    if "reject" in outcomes:
        return "reject"
    return "promote" if outcomes == {"promote"} else "hold"
