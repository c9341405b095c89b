"""The verdict on a student: compared with its teacher by its own margin, and held for its code and data like any model."""

from __future__ import annotations

import pytest

from components.gate_model.config import GateConfig
from components.gate_model.student import decide_student
from mistere.artifacts.manifests import ChampionEvaluation, EvaluationReport, ValidationReport
from mistere.common.errors import UsageError
from pipelines.catalogue import DISTILLATION, RETRAINING

TEACHER = "a" * 64


def evaluation(low: float, value: float, high: float) -> EvaluationReport:
    name = "champion.difference.weighted_f1"
    return EvaluationReport(
        labels=["calm", "glad"],
        experts=["text", "cross_modal"],
        metrics={name: value, f"{name}.low": low, f"{name}.high": high},
        utterances=100,
        dialogues=10,
        confusion=[],
        test_digest="t" * 64,
        champion=ChampionEvaluation(bundle_digest=TEACHER, test_digest="t" * 64),
    )


@pytest.mark.parametrize(
    ("low", "value", "high", "code", "verdict", "holds"),
    [
        (-0.01, 0.0, 0.01, "committed", "promote", []),
        (-0.03, -0.005, 0.02, "committed", "hold", ["teacher_comparison"]),
        (-0.03, -0.015, -0.005, "committed", "hold", ["teacher_comparison"]),
        (-0.06, -0.04, -0.03, "committed", "reject", []),
        (-0.01, 0.0, 0.01, "uncommitted: a.py", "hold", ["committed_code"]),
        (-0.06, -0.04, -0.03, "unknown", "reject", ["committed_code"]),
    ],
)
def test_the_interval_and_the_code_decide(
    low: float, value: float, high: float, code: str, verdict: str, holds: list[str]
) -> None:
    decided = decide_student(GateConfig(), evaluation(low, value, high), None, TEACHER, 0.02, code)
    assert decided.verdict == verdict and decided.rules[0].rule == "teacher_comparison"
    assert [rule.rule for rule in decided.rules if rule.outcome == "hold"] == holds
    assert "differs from the teacher's by" in decided.rules[0].sentence


def test_warnings_of_validated_data_hold_it_where_the_profile_says_so() -> None:
    config = GateConfig.model_validate({"data_warnings": "hold"})
    validation = ValidationReport(
        verdict="warn", warnings=["Few speakers."], expectations=1, utterances=1, audio_seconds=1
    )
    decided = decide_student(config, evaluation(-0.01, 0.0, 0.01), validation, TEACHER, 0.02, "committed")
    assert decided.verdict == "hold" and decided.rules[1].rule == "data_verdict" and decided.rules[1].final


def test_thresholds_that_do_not_count_for_a_student_are_refused() -> None:
    DISTILLATION.check_settings(["gate.allow_uncommitted=true", "distillation.layers=2"])
    RETRAINING.check_settings(["gate.champion_margin=0.1"])
    with pytest.raises(UsageError, match=r"gate\.champion_margin: a student is compared with its teacher"):
        DISTILLATION.check_settings(["gate.champion_margin=0.1"])
