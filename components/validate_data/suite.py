"""Runs the expectations through Great Expectations and turns its results into sentences and a verdict.

Great Expectations sees the tables of facts, never the audio. It says which rows fail; whether that rejects the
dataset is decided here, from the counts and the allowed share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from components.validate_data.expectation import Rule
from components.validate_data.wording import describe, shown
from mistere.config.validation import Severity

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult

Status = Literal["pass", "warn", "fail", "not checked"]
_KEPT_VALUES = 20
MOST_EXAMPLES = 10


@dataclass(frozen=True)
class ExpectationOutcome:
    """The result of one expectation.

    Attributes:
        rule: the expectation.
        severity: what a failure means.
        status: ``fail`` rejects the dataset, ``warn`` does not.
        checked: rows it applied to.
        unexpected: rows that do not meet it; some may be allowed.
        sentence: of a failure, what is wrong, where and how to fix it; of an unchecked expectation, why.
        examples: failing rows in words: up to ten, or all of them if they are tolerated (``pass``).
        failing: their positions in the expectation's table.
        result: Great Expectations' result, without what changes from run to run.
    """

    rule: Rule
    severity: Severity
    status: Status
    checked: int = 0
    unexpected: int = 0
    sentence: str = ""
    examples: Sequence[str] = ()
    failing: Sequence[int] = ()
    result: Mapping[str, Any] = field(default_factory=dict)


def evaluate(
    rules: Sequence[Rule], tables: Mapping[str, pd.DataFrame], unusable: frozenset[str]
) -> list[ExpectationOutcome]:
    """Check every expectation that applies.

    Args:
        rules: the expectations.
        tables: the tables that they check.
        unusable: columns of the dataset that are missing or of the wrong type in some file; what needs them is not checked.

    Returns:
        One outcome per expectation, in their order.
    """
    reasons = {rule.name: _not_checked(rule, tables, unusable) for rule in rules}
    results = _validate([rule for rule in rules if not reasons[rule.name]], tables)
    return [
        ExpectationOutcome(rule, rule.severity, "not checked", sentence=reasons[rule.name])
        if reasons[rule.name]
        else _outcome(rule, rule.severity, results[rule.name], tables[rule.table])
        for rule in rules
    ]


def _not_checked(rule: Rule, tables: Mapping[str, pd.DataFrame], unusable: frozenset[str]) -> str:
    absent = [column for column in rule.needs if column in unusable]
    if absent:
        return f"not checked until the column '{absent[0]}' is fixed"
    return rule.not_checked or ("the dataset has nothing of this kind" if tables[rule.table].empty else "")


def _validate(rules: Sequence[Rule], tables: Mapping[str, pd.DataFrame]) -> dict[str, ExpectationValidationResult]:
    """Great Expectations' results by the rules' names: one suite per table, nothing written, nothing sent."""
    import great_expectations as gx
    from great_expectations import expectations
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.enable_analytics(False)
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    # One batch definition for all tables: each further one would serialise the whole context again.
    facts = (
        context.data_sources.add_pandas("facts")
        .add_dataframe_asset("table")
        .add_batch_definition_whole_dataframe("all")
    )
    answers: dict[str, ExpectationValidationResult] = {}
    for table in dict.fromkeys(rule.table for rule in rules):
        batch = facts.get_batch({"dataframe": tables[table]})
        suite = gx.ExpectationSuite(name=table)
        for rule in rules:
            if rule.table == table:
                kind, arguments = rule.check
                mostly = {"mostly": 1 - rule.allowed_share} if rule.allowed_share else {}
                suite.add_expectation(getattr(expectations, kind)(**arguments, **mostly, meta={"rule": rule.name}))
        found: ExpectationSuiteValidationResult = batch.validate(suite, result_format={"result_format": "COMPLETE"})
        for result in found.results:
            answers[result.expectation_config.meta["rule"]] = result
    return answers


def _outcome(
    rule: Rule, severity: Severity, answer: ExpectationValidationResult, table: pd.DataFrame
) -> ExpectationOutcome:
    counts = answer.result
    if "unexpected_index_list" not in counts:
        trouble = f"{rule.title}: this could not be checked, which is a defect of the validation, not of the data."
        return ExpectationOutcome(rule, severity, "fail", sentence=trouble, result=_stable(answer))
    failing = sorted(counts["unexpected_index_list"])
    checked = int(counts["element_count"]) - int(counts.get("missing_count") or 0)
    if len(failing) <= rule.allowed_share * checked + 1e-9:
        tolerated = tuple(shown(table.loc[failing], rule.table, rule.example, len(failing)))
        return ExpectationOutcome(
            rule,
            severity,
            "pass",
            checked,
            len(failing),
            examples=tolerated,
            failing=tuple(failing),
            result=_stable(answer),
        )
    rows = table.loc[failing]
    happened = describe(rule.happened, rows, rule.table, rule.check[1].get("column", ""), rule.example, rule.noun)
    return ExpectationOutcome(
        rule,
        severity,
        "fail" if severity == "block" else "warn",
        checked,
        len(failing),
        f"{happened[0].upper()}{happened[1:]}: {rule.fix}.",
        tuple(shown(rows, rule.table, rule.example, MOST_EXAMPLES)),
        tuple(failing),
        _stable(answer),
    )


def _stable(answer: ExpectationValidationResult) -> dict[str, Any]:
    """A result as JSON without run-dependent identifiers; long lists are cut."""
    answer_fields: dict[str, Any] = dict(answer.to_json_dict())
    result = answer_fields["result"]
    config = answer_fields["expectation_config"]
    names = ("element_count", "missing_count", "unexpected_count", "unexpected_percent")
    lists = ("unexpected_list", "unexpected_index_list")
    kept = {name: result[name] for name in names if name in result}
    kept |= {name: result[name][:_KEPT_VALUES] for name in lists if name in result}
    arguments = {name: value for name, value in config["kwargs"].items() if name != "batch_id"}
    return {"type": config["type"], "kwargs": arguments, "success": answer_fields["success"], "result": kept}
