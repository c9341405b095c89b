"""Conformance of each discovered gate rule: its examples, thresholds and required metrics."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest

from components.gate_model.candidate import Candidate
from components.gate_model.config import GateConfig
from components.gate_model.example_figures import EXPERTS, LABELS
from components.gate_model.rule import Case, Rule
from components.gate_model.rules import rules
from components.gate_model.verdict import overall
from mistere.artifacts.manifests import ChampionEvaluation, RuleResult
from mistere.config.gate import Off

RULES = rules()
CASES = [(name, case) for name, rule in RULES.items() for case in rule.examples.cases]
FIGURES = [(name, figure) for name, rule in RULES.items() for figure in rule.examples.promotes]
SWITCHES = [
    (name, setting)
    for name, rule in RULES.items()
    for setting, field in rule.thresholds.model_fields.items()
    if Off in get_args(field.annotation)
]
PROMOTES = Case("promote")


def promoted_figures() -> dict[str, float]:
    """Metrics of a candidate that every rule promotes, merged from the examples of all rules."""
    figures: dict[str, float] = {}
    for name, rule in RULES.items():
        for figure, value in rule.examples.promotes.items():
            assert figures.setdefault(figure, value) == value, (
                f"{name}: another rule's examples promote at {figure}={figures[figure]}; use the same value"
            )
    return figures


def candidate(case: Case, without: str = "") -> Candidate:
    """The candidate that every rule promotes, with a case's changes applied."""
    figures = {name: value for name, value in {**promoted_figures(), **case.figures}.items() if name != without}
    attributes: dict[str, Any] = {
        "metrics": {name: value for name, value in figures.items() if not name.startswith("runtime.")},
        "runtime": {name: value for name, value in figures.items() if name.startswith("runtime.")},
        "labels": LABELS,
        "experts": EXPERTS,
        "test_digest": "test",
        "champion_digest": "champion",
        "champion": ChampionEvaluation(bundle_digest="champion", test_digest="test"),
        "anchor_digest": "anchor",
        "anchor": ChampionEvaluation(bundle_digest="anchor", test_digest="test"),
    }
    return Candidate(**{**attributes, **case.candidate})


def thresholds(case: Case) -> Any:
    """The ``gate`` section: the example thresholds of all rules, with a case's changes applied."""
    values = {key: value for rule in RULES.values() for key, value in rule.examples.thresholds.items()}
    return GateConfig(**{**values, **case.thresholds})


def decisions(case: Case, without: str = "") -> dict[str, RuleResult]:
    """The result of each rule, checked to be renderable in a report."""
    results = {name: rule.decide(candidate(case, without), thresholds(case)) for name, rule in RULES.items()}
    for name, result in results.items():
        sentence = result.sentence
        assert result.rule == name
        assert sentence.endswith(".") and not sentence.endswith(".."), sentence
        assert "\n" not in sentence and "  " not in sentence and sentence == sentence.strip()
        assert "nan" not in sentence.split(), sentence
        for number in (result.measured, result.bound):
            assert number is None or math.isfinite(number)
    return results


def test_each_rule_promotes_the_example_candidate() -> None:
    results = decisions(PROMOTES)
    assert {name: result.outcome for name, result in results.items()} == dict.fromkeys(RULES, "promote")
    assert overall(list(results.values())) == "promote"


@pytest.mark.parametrize(("name", "case"), CASES)
def test_each_case_affects_only_its_own_rule(name: str, case: Case) -> None:
    results = decisions(case)
    changed = {rule: result.outcome for rule, result in results.items() if result.outcome != "promote"}
    assert changed == ({} if case.outcome == "promote" else {name: case.outcome})


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_each_rule_has_a_case_that_does_not_promote(rule: Rule[Any]) -> None:
    outcomes = {case.outcome for case in rule.examples.cases}
    assert outcomes & {"hold", "reject"}, "add a case that holds or rejects"
    if rule.examples.promotes:
        assert "reject" in outcomes, "a rule that requires metrics needs a case that rejects"


@pytest.mark.parametrize(("name", "figure"), FIGURES)
def test_missing_metric_fails_each_rule_that_requires_it(name: str, figure: str) -> None:
    result = decisions(PROMOTES, without=figure)[name]
    assert result.outcome == "reject" and result.measured is None
    assert "was not measured" in result.sentence


@pytest.mark.parametrize(("name", "setting"), SWITCHES)
def test_rule_with_threshold_off_is_not_evaluated(name: str, setting: str) -> None:
    result = decisions(Case("off", thresholds={setting: False}))[name]
    assert result.outcome == "off" and f"gate.{setting}" in result.sentence
    assert result.measured is None and result.bound is None


@pytest.mark.parametrize("rule", RULES.values(), ids=list(RULES))
def test_each_threshold_has_a_valid_default_and_a_description(rule: Rule[Any]) -> None:
    defaults = rule.thresholds()
    assert type(defaults).model_validate(defaults.model_dump()) == defaults
    for setting, field in rule.thresholds.model_fields.items():
        assert field.description and field.description.endswith("."), setting
        assert setting in GateConfig.model_fields and GateConfig.model_fields[setting].default == field.default
