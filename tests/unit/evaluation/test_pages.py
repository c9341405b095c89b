"""What holds for every HTML page: line breaks, axes without formulas, bounds with their direction, tables that become lists."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import mistere
from mistere.artifacts.manifests import RuleResult
from mistere.reports.html_page import unbroken
from mistere.reports.rule_rows import rule_rows
from mistere.reports.shadow.page import _latency_plot
from mistere.serving.shadow.figures import SECONDS_EDGES

ROOT = Path(mistere.__file__).resolve().parents[1]
TEMPLATES = sorted(
    path
    for room in ("mistere/reports", "components", "pipelines/cli/output", "pipelines/cli/experiments")
    for path in (ROOT / room).rglob("*.html")
)


def test_no_line_begins_with_a_per_cent_sign() -> None:
    assert unbroken("a 95 % interval, 45%, 3 of 4") == "a 95\N{NO-BREAK SPACE}% interval, 45%, 3 of 4"


def test_a_logarithmic_axis_has_numbers() -> None:
    seconds = np.zeros((2, len(SECONDS_EDGES) - 1))
    seconds[:, 5:20] = 1
    plot = str(_latency_plot(seconds))
    assert "mathdefault" not in plot and ">10<" in plot


@pytest.mark.parametrize(
    ("rule", "bound", "shown"),
    [
        ("latency", 5000.0, "≤ 5,000 ms"),
        ("data_verdict", 0.0, "≤ 0"),
        ("minimum_contribution", -0.02, "≥ -0.020"),
        ("of_a_user", 0.5, "0.500"),
    ],
)
def test_a_bound_says_whether_it_is_a_maximum(rule: str, bound: float, shown: str) -> None:
    (row,) = rule_rows([RuleResult(rule=rule, outcome="promote", measured=bound, bound=bound, sentence="")])
    assert row.bound == shown


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: str(path.relative_to(ROOT)))
def test_cells_of_a_table_that_becomes_a_list_know_their_column(template: Path) -> None:
    for table in re.findall(r'<table class="[^"]*stack.*?</table>', template.read_text(encoding="utf-8"), re.DOTALL):
        assert "<thead>" in table
        for row in table.split("<tbody>")[1].split("<tr>")[1:]:
            numbers = re.findall(r'<td class="number[^>]*>', row)
            assert all("data-name=" in cell for cell in numbers), row
