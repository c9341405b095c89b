"""Gate rules in detail and the combined verdict; test_gate_conformance.py checks the conformance of each rule."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from components.gate_model.candidate import Candidate
from components.gate_model.config import GateConfig
from components.gate_model.rules import rules
from components.gate_model.verdict import overall
from mistere.artifacts.manifests import ChampionEvaluation, RuleResult
from mistere.data.conditions import usual_conditions
from tests.unit.repository.code_copy import copy_code, python_block, run_python

ROOT = Path(__file__).resolve().parents[3]
EXPERTS = ("speech", "text", "cross_modal")
LABELS = ("anger", "joy", "neutral")
THRESHOLDS: dict[str, Any] = {"max_robustness_loss": 0.05, "max_dialogue_ms": 500.0, "max_bundle_mb": 64.0}
NEEDS_NO_FIGURE = {"committed_code", "data_verdict"}


def with_bounds(name: str, low: float, value: float, high: float) -> dict[str, float]:
    """A metric with its interval bounds."""
    return {name: value, f"{name}.low": low, f"{name}.high": high}


METRICS = {
    **with_bounds("test.weighted_f1", 0.57, 0.6, 0.63),
    "test.majority.weighted_f1": 0.3,
    "test.ece": 0.05,
    **{f"test.support.{label}": 100.0 for label in LABELS},
    **{f"test.f1.{label}": 0.5 for label in LABELS},
    **{f"test.gate.{name}.mean": share for name, share in zip(EXPERTS, (0.2, 0.3, 0.5), strict=True)},
    **{
        key: value
        for name in EXPERTS
        for key, value in with_bounds(f"test.contribution.{name}", 0.01, 0.02, 0.03).items()
    },
    **{
        key: value
        for name in ("speech", "text")
        for percent, left in ((0, 0.6), (50, 0.55), (100, 0.45))
        for key, value in with_bounds(
            f"test.missing.{name}.{percent}.weighted_f1", left - 0.03, left, left + 0.03
        ).items()
    },
    **{
        key: value
        for one in usual_conditions()
        for key, value in with_bounds(f"test.robustness.{one}.loss", 0, 0.01, 0.03).items()
    },
    **with_bounds("champion.difference.weighted_f1", 0.005, 0.02, 0.035),
    **with_bounds("champion.slice.modalities.speech+text.difference", 0.005, 0.02, 0.035),
    "test.slice.modalities.speech+text.support": 300.0,
    "test.slice.modalities.speech+text.dialogues": 40.0,
    "test.gain_coverage": 0.95,
    **with_bounds("test.gain_over_mean_of_experts", 0.0, 0.01, 0.02),
    **{
        key: value for name in EXPERTS for key, value in with_bounds(f"test.gain_over.{name}", 0.01, 0.03, 0.05).items()
    },
}
RUNTIME = {"runtime.unloaded_ms.p95": 120.0, "runtime.size_mb": 12.0}
CHAMPION = ChampionEvaluation(bundle_digest="champion", test_digest="test")


def candidate(
    metrics: Mapping[str, float] | None = None,
    runtime: Mapping[str, float] | None = None,
    without: Iterable[str] = (),
    **changes: Any,
) -> Candidate:
    """A candidate that passes every rule, with the given changes."""
    missing = set(without)
    fields: dict[str, Any] = {
        "metrics": {name: value for name, value in {**METRICS, **(metrics or {})}.items() if name not in missing},
        "runtime": {name: value for name, value in {**RUNTIME, **(runtime or {})}.items() if name not in missing},
        "labels": LABELS,
        "experts": EXPERTS,
        "test_digest": "test",
        "champion_digest": "champion",
        "champion": CHAMPION,
    }
    return Candidate(**{**fields, **changes})


@pytest.mark.parametrize(
    ("name", "setting", "bound", "phrase"),
    [
        ("above_majority", "min_over_majority", 0.05, "exceeds it by the required 0.050."),
        ("above_majority", "min_over_majority", 0.9, "does not exceed it by the required 0.900."),
        ("above_majority", "min_over_majority", 0, "is not below it."),
        ("above_majority", "min_over_majority", -1, "is not more than 1.000 below it."),
        ("minimum_contribution", "min_contribution", -0.02, "each must contribute at least -0.020."),
        ("minimum_contribution", "min_contribution", 1, "less than the required +1.000."),
    ],
)
def test_sentences_of_a_bound_fit_its_sign(name: str, setting: str, bound: float, phrase: str) -> None:
    result = evaluate_rules(candidate(), **{setting: bound})[name]
    assert result.sentence.endswith(phrase) and setting in result.settings
    assert "settings" not in result.model_copy(update={"settings": []}).model_dump(), (
        "earlier verdicts keep their digest"
    )


def evaluate_rules(one: Candidate, **thresholds: Any) -> dict[str, RuleResult]:
    """The result of each rule, checked to be renderable in a report."""
    config = GateConfig(**{**THRESHOLDS, **thresholds})
    results = {name: rule.decide(one, config) for name, rule in rules().items()}
    for name, result in results.items():
        assert result.rule == name
        assert result.sentence.endswith(".") and not result.sentence.endswith(".."), result.sentence
        assert (
            "\n" not in result.sentence and "  " not in result.sentence and result.sentence == result.sentence.strip()
        )
        assert "nan" not in result.sentence.split(), result.sentence
        for number in (result.measured, result.bound):
            assert number is None or math.isfinite(number)
    return results


def test_missing_modality_rule_rejects_an_incomplete_curve() -> None:
    speech = [name for name in METRICS if name.startswith("test.missing.speech.")]
    for missing in (speech, [name for name in speech if ".0." not in name], ["test.weighted_f1"]):
        result = evaluate_rules(candidate(without=missing))["missing_modality"]
        assert result.outcome == "reject" and "was not measured" in result.sentence


def test_single_modality_model_passes_without_a_rule_on_its_only_modality() -> None:
    lost = with_bounds("test.missing.text.75.weighted_f1", 0.1, 0.15, 0.2)
    curve = [name for name in METRICS if name.startswith("test.missing.")]
    text_only = candidate(experts=("text", "cross_modal"), metrics=lost, without=curve)
    results = evaluate_rules(text_only)
    assert (
        results["missing_modality"].outcome == "off" and "only modality is text" in results["missing_modality"].sentence
    )
    assert overall(list(results.values())) == "promote"
    named = evaluate_rules(text_only, expected_missing=["text"])["missing_modality"]
    assert named.outcome == "reject" and "Without 75 % of text" in named.sentence


@pytest.mark.parametrize(
    ("dropout", "absent", "setting", "outcome"),
    [
        (0.1, {"speech": 0.0, "text": 0.0}, "auto", "reject"),
        (0.0, {"speech": 0.0, "text": 0.0}, "auto", "off"),
        (0.0, {"speech": 0.2, "text": 0.0}, "auto", "reject"),
        (0.0, {"speech": 0.0, "text": 0.2}, "auto", "promote"),
        (0.0, {"text": 0.0}, "auto", "reject"),
        (0.0, {"speech": 0.0, "text": 0.0}, ["speech"], "reject"),
        (0.1, {"speech": 0.2, "text": 0.2}, ["text"], "promote"),
        (0.1, {"speech": 0.2, "text": 0.2}, ["video"], "off"),
        (0.1, {"speech": 0.2, "text": 0.2}, [], "off"),
    ],
)
def test_missing_modality_rule_covers_only_expected_absences(
    dropout: float, absent: dict[str, float], setting: str | list[str], outcome: str
) -> None:
    """The model is useless without speech and good without text."""
    metrics = {
        **with_bounds("test.missing.speech.100.weighted_f1", 0.1, 0.15, 0.2),
        "model.modality_dropout": dropout,
        **{f"test.absent.{name}": share for name, share in absent.items()},
    }
    result = evaluate_rules(candidate(metrics=metrics), expected_missing=setting)["missing_modality"]
    assert result.outcome == outcome


def test_gate_rejects_a_candidate_without_metrics_with_readable_reasons() -> None:
    results = evaluate_rules(candidate(without=[*METRICS, *RUNTIME]))
    assert {name for name, result in results.items() if result.outcome == "promote"} == NEEDS_NO_FIGURE
    assert overall(list(results.values())) == "reject"


# The champion


def champion_result(thresholds: Mapping[str, Any] | None = None, **changes: Any) -> RuleResult:
    """The champion rule's result."""
    return evaluate_rules(candidate(**changes), **(thresholds or {}))["champion_comparison"]


def test_champion_rule_promotes_without_a_champion() -> None:
    assert champion_result(champion_digest="", champion=None).outcome == "off"
    results = evaluate_rules(candidate(champion_digest="", champion=None, without=["champion.difference.weighted_f1"]))
    assert overall(list(results.values())) == "promote"


@pytest.mark.parametrize("difference", [-0.3, 0.0, 0.3])
def test_champion_rule_ignores_metrics_of_another_test_split(difference: float) -> None:
    other = ChampionEvaluation(bundle_digest="champion", test_digest="another")
    metrics = with_bounds("champion.difference.weighted_f1", difference - 0.01, difference, difference + 0.01)
    result = champion_result(champion=other, metrics=metrics)
    assert result.outcome == "hold" and result.measured is None and "never compared" in result.sentence


def test_champion_rule_holds_when_the_champion_is_incomparable() -> None:
    why = "it knows other labels than this dataset"
    result = champion_result(champion=ChampionEvaluation(bundle_digest="champion", incomparable=why))
    assert result.outcome == "hold" and why in result.sentence and result.measured is None


def test_champion_rule_rejects_when_the_champion_was_not_evaluated() -> None:
    for champion in (None, ChampionEvaluation(bundle_digest="another champion", test_digest="test")):
        result = champion_result(champion=champion)
        assert result.outcome == "reject" and "was not evaluated" in result.sentence


@pytest.mark.parametrize(
    ("low", "high", "superior", "not_worse"),
    [
        (0.001, 0.02, "promote", "promote"),
        (0.0, 0.02, "hold", "promote"),
        (-0.005, 0.005, "hold", "promote"),
        (-0.01, 0.005, "hold", "promote"),
        (-0.011, 0.005, "hold", "hold"),
        (-0.02, 0.0, "hold", "hold"),
        (-0.02, -0.001, "reject", "reject"),
    ],
)
def test_champion_rule_decides_by_the_paired_interval_in_both_modes(
    low: float, high: float, superior: str, not_worse: str
) -> None:
    metrics = with_bounds("champion.difference.weighted_f1", low, (low + high) / 2, high)
    result = champion_result(metrics=metrics, thresholds={"champion_mode": "superiority"})
    assert (result.outcome, result.bound, result.measured) == (superior, 0.0, low)
    result = champion_result(metrics=metrics)
    assert (result.outcome, result.bound, result.measured) == (not_worse, -0.01, low)


def test_champion_rule_says_that_identical_models_do_not_differ() -> None:
    metrics = with_bounds("champion.difference.weighted_f1", 0.0, 0.0, 0.0)
    result = champion_result(metrics=metrics)
    assert result.outcome == "promote"
    assert result.sentence == "Weighted F1 is exactly the champion's: not worse by more than 0.010."
    result = champion_result(metrics=metrics, thresholds={"champion_mode": "superiority"})
    assert result.outcome == "hold"
    assert result.sentence == "Weighted F1 is exactly the champion's: not better than the champion."


def test_champion_rule_passes_a_significant_loss_within_the_margin() -> None:
    metrics = with_bounds("champion.difference.weighted_f1", -0.008, -0.005, -0.002)
    assert champion_result(metrics=metrics).outcome == "promote"
    assert champion_result(metrics=metrics, thresholds={"champion_margin": 0.0}).outcome == "reject"


# Exceptions


def test_class_floor_ignores_classes_with_little_support() -> None:
    few = {"test.support.joy": 19.0, "test.f1.joy": 0.0}
    assert evaluate_rules(candidate(metrics=few))["class_floor"].outcome == "promote"
    assert evaluate_rules(candidate(metrics=few, without=["test.f1.joy"]))["class_floor"].outcome == "promote"
    enough = evaluate_rules(candidate(metrics={**few, "test.support.joy": 20.0}))["class_floor"]
    assert enough.outcome == "reject" and "joy" in enough.sentence and enough.measured == 0.0
    assert evaluate_rules(candidate(metrics=few), min_class_support=10)["class_floor"].outcome == "reject"
    none = evaluate_rules(candidate(), min_class_support=1000)["class_floor"]
    assert none.outcome == "off" and "1,000" in none.sentence


def test_class_floor_names_each_class_below_it() -> None:
    result = evaluate_rules(candidate(metrics={"test.f1.anger": 0.05, "test.f1.joy": 0.0}))["class_floor"]
    assert "anger 0.050" in result.sentence and "joy 0.000" in result.sentence and "neutral" not in result.sentence


def test_a_contribution_has_one_sign_and_zero_none_of_its_own() -> None:
    least = with_bounds("test.contribution.cross_modal", -0.0004, 0.004, 0.008)
    sentence = evaluate_rules(candidate(metrics=least))["minimum_contribution"].sentence
    assert "The cross-modal expert contributes least: it adds +0.004 to the mixture's weighted F1" in sentence
    assert "(95 % interval +0.000 to +0.008)" in sentence


def test_mixture_gain_names_the_best_expert_and_the_intervals() -> None:
    # The sample's figures: 0.686 beside 0.687 of the cross-modal expert.
    sample = with_bounds("test.gain_over.cross_modal", -0.030, -0.001, 0.027)
    result = evaluate_rules(candidate(metrics=sample))["mixture_gain"]
    assert result.outcome == "promote" and (result.measured, result.bound) == (0.02, -0.01)
    assert "its best expert (cross-modal) by -0.001 (paired 95 % interval -0.030 to +0.027)" in result.sentence
    assert "plain mean of its experts by +0.010 (+0.000 to +0.020)" in result.sentence
    assert result.sentence.endswith(": not significantly below either by more than 0.010.")
    strict = evaluate_rules(candidate(metrics=sample), mixture_mode="non_inferiority")["mixture_gain"]
    assert strict.outcome == "hold" and strict.measured == -0.030
    assert strict.sentence.endswith("undecided whether it is below its best expert by more than 0.010.")
    wide = evaluate_rules(candidate(metrics=sample | {"test.gain_coverage": 0.9}))["mixture_gain"]
    assert "paired 90 % interval" in wide.sentence


def test_mixture_gain_rejects_a_mixture_below_one_modality_or_the_plain_mean() -> None:
    text = with_bounds("test.gain_over.text", -0.07, -0.05, -0.03)
    result = evaluate_rules(candidate(metrics=text))["mixture_gain"]
    assert result.outcome == "reject" and "below its best expert by more than 0.010" in result.sentence
    assert "mixture.modalities: [text]" in result.sentence
    mean = with_bounds("test.gain_over_mean_of_experts", -0.055, -0.043, -0.03)
    result = evaluate_rules(candidate(metrics=mean))["mixture_gain"]
    assert result.outcome == "reject" and "mixture.gate: mean" in result.sentence
    both = evaluate_rules(candidate(metrics=text | mean))["mixture_gain"]
    assert "below its best expert and the plain mean of its experts by more than 0.010" in both.sentence
    assert evaluate_rules(candidate(metrics=mean), mixture_margin=0.03)["mixture_gain"].outcome == "promote"
    alone = evaluate_rules(candidate(experts=("text", "cross_modal"), metrics=text))["mixture_gain"]
    assert alone.outcome == "reject" and "mixture.modalities" not in alone.sentence
    assert evaluate_rules(candidate(experts=("text",)))["mixture_gain"].outcome == "off"


def test_text_only_model_skips_expert_rules_and_noise_conditions() -> None:
    loud = with_bounds("test.robustness.noise_20db.loss", 0.5, 0.5, 0.5)
    results = evaluate_rules(candidate(experts=("text", "cross_modal"), metrics=loud))
    assert {name for name, result in results.items() if result.outcome == "off"} == {
        "anchor_comparison",
        "call_loss",
        "expert_collapse",
        "language_floor",
        "minimum_contribution",
        "missing_modality",
    }
    assert overall(list(results.values())) == "promote"
    deaf = {"robustness_conditions": ["noise_20db", "telephone"]}
    alone = evaluate_rules(candidate(experts=("text", "cross_modal"), metrics=loud), **deaf)
    assert alone["robustness"].outcome == "off"
    assert evaluate_rules(candidate(metrics=loud))["robustness"].outcome == "reject"


def test_condition_outside_the_configured_ones_is_only_reported() -> None:
    loud = with_bounds("test.robustness.noise_0db.loss", 0.5, 0.5, 0.5)
    assert evaluate_rules(candidate(metrics=loud))["robustness"].outcome == "promote"
    counts = {"robustness_conditions": ["noise_0db"]}
    assert evaluate_rules(candidate(metrics=loud), **counts)["robustness"].outcome == "reject"


def test_uncommitted_code_and_warnings_pass_if_the_profile_allows_them() -> None:
    for code in ("uncommitted", "unknown"):
        result = evaluate_rules(candidate(code=code), allow_uncommitted=True)["committed_code"]
        assert result.outcome == "promote" and "allows" in result.sentence
    result = evaluate_rules(candidate(code="uncommitted", uncommitted="pipelines/a.py"))["committed_code"]
    assert result.outcome == "hold" and "uncommitted changes (pipelines/a.py), so the model cannot" in result.sentence
    assert "or allow it with --set gate.allow_uncommitted=true" in result.sentence
    warned = evaluate_rules(candidate(data_verdict="warn", data_warnings=["One.", "Two."]))["data_verdict"]
    assert warned.outcome == "promote" and "2 warnings" in warned.sentence and warned.measured == 2


def test_model_with_zero_f1_is_rejected_without_a_division_by_zero() -> None:
    nothing = {**with_bounds("test.weighted_f1", 0.0, 0.0, 0.0)}
    assert evaluate_rules(candidate(metrics=nothing))["missing_modality"].outcome == "reject"


# Verdict


def result(outcome: Any) -> RuleResult:
    """A rule result with an outcome."""
    return RuleResult(rule="any", outcome=outcome, measured=None, bound=None, sentence="Because.")


@pytest.mark.parametrize(
    ("outcomes", "answer"),
    [
        (["promote", "promote"], "promote"),
        (["promote", "off"], "promote"),
        (["promote", "hold", "off"], "hold"),
        (["promote", "hold", "reject"], "reject"),
        (["off", "reject"], "reject"),
        (["off", "off"], "hold"),
        ([], "hold"),
    ],
)
def test_verdict_is_the_most_severe_rule_outcome(outcomes: list[str], answer: str) -> None:
    assert overall([result(outcome) for outcome in outcomes]) == answer


# Thresholds


def test_zero_threshold_is_evaluated_and_off_is_not() -> None:
    zero = GateConfig(
        min_contribution=0, min_class_f1=0, max_ece=0, max_robustness_loss=0, min_retained=0, mixture_margin=0
    )
    for name in (
        "min_contribution",
        "min_class_f1",
        "max_ece",
        "max_robustness_loss",
        "min_retained",
        "mixture_margin",
    ):
        value = getattr(zero, name)
        assert value == 0.0 and isinstance(value, float), name
        assert getattr(GateConfig(**{name: False}), name) is False
    again = GateConfig.model_validate(json.loads(zero.model_dump_json()))
    assert again == zero and again.min_contribution is not False
    off = GateConfig.model_validate(json.loads(GateConfig(max_ece=False).model_dump_json()))
    assert off.max_ece is False
    assert evaluate_rules(candidate(), max_ece=0)["calibration"].outcome == "reject"


@pytest.mark.parametrize(
    "wrong",
    [
        {"robustness_conditions": ["thunder"]},
        {"robustness_conditions": []},
        {"max_ece": None},
        {"max_ece": 1.5},
        {"max_dialogue_ms": 0},
        {"champion_mode": "equality"},
        {"min_wieghted_f1": 0.4},
    ],
)
def test_invalid_threshold_is_rejected(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GateConfig(**wrong)


# Discovery

PAGE = ROOT / "docs" / "extending" / "gate-rule.md"
PROGRAM = """
import json
from components.gate_model.candidate import Candidate
from components.gate_model.rules import rules
from mistere.common.digests.code import source_digest
from mistere.common.errors import UsageError
from pipelines.profiles import load_profile
report = {"rules": sorted(rules())}
if "short_turns" in rules():
    config = load_profile("tiny", ["gate.min_short_turns=0.3"])
    report["section"] = config.section("gate")["min_short_turns"]
    metrics = {"test.slice.words.1-3.weighted_f1" + end: value for end, value in (("", .4), (".low", .35), (".high", .45))}
    for bound in ("0.3", "0.4", "off"):
        gate = load_profile("tiny", [f"gate.min_short_turns={bound}"]).gate
        report[bound] = rules()["short_turns"].decide(Candidate(metrics), gate).outcome
    try:
        load_profile("tiny", ["gate.min_shrt_turns=0.3"])
    except UsageError as error:
        report["mistyped"] = str(error)
report["digests"] = {name: source_digest(f"components.{name}.run") for name in
    ("gate_model", "validate_data", "finetune_encoder", "train_moe", "evaluate_model", "register_model")}
print(json.dumps(report))
"""


@pytest.mark.long
def test_new_rule_file_is_discovered_and_reruns_the_gate(tmp_path: Path) -> None:
    copy_code(tmp_path)
    before = json.loads(run_python(tmp_path, "-c", PROGRAM))
    assert "short_turns" not in before["rules"]
    (tmp_path / "components/gate_model/rules/short_turns.py").write_text(python_block(PAGE), encoding="utf-8")
    after = json.loads(run_python(tmp_path, "-c", PROGRAM))
    assert after["rules"] == sorted([*before["rules"], "short_turns"])
    assert after["section"] == 0.3
    assert (after["0.3"], after["0.4"], after["off"]) == ("promote", "reject", "off")
    assert "unknown setting 'gate.min_shrt_turns'; did you mean 'min_short_turns'?" in after["mistyped"]
    changed = {stage for stage, digest in after["digests"].items() if digest != before["digests"][stage]}
    assert changed == {"gate_model"}


@pytest.mark.long
def test_conformance_tests_cover_a_new_rule_file(tmp_path: Path) -> None:
    copy_code(tmp_path)
    rule = tmp_path / "components/gate_model/rules/short_turns.py"
    test = tmp_path / "test_gate_conformance.py"
    shutil.copyfile(ROOT / "tests/unit/evaluation/test_gate_conformance.py", test)
    command = ["-m", "pytest", "-v", "-p", "no:cacheprovider", "-n", "0", str(test)]
    rule.write_text(python_block(PAGE), encoding="utf-8")
    assert "short_turns" in run_python(tmp_path, *command)
    rule.write_text(python_block(PAGE).replace('Case("reject"', 'Case("hold"'), encoding="utf-8")
    with pytest.raises(AssertionError, match="test_each_case_affects_only_its_own_rule"):
        run_python(tmp_path, *command)


def test_two_rules_declaring_the_same_threshold_are_rejected(tmp_path: Path) -> None:
    copy_code(tmp_path)
    source = python_block(PAGE).replace("min_short_turns", "min_weighted_f1")
    (tmp_path / "components/gate_model/rules/short_turns.py").write_text(source, encoding="utf-8")
    with pytest.raises(AssertionError, match="gate rule short_turns both declare the setting 'min_weighted_f1'"):
        run_python(tmp_path, "-c", PROGRAM)
