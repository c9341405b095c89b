"""``robustness.html``: curves of weighted F1 and calibration over the strength of each effect, with tables."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from mistere.common.counting import counted
from mistere.evaluation.call_report import CallReport
from mistere.reports.calls.sections import call_sections, level_row
from mistere.reports.calls.summary import comparison, lead, model_name, number
from mistere.reports.html_page import render_page

TEMPLATE: Final = Path(__file__).parent / "page.html"


def render_calls(report: CallReport) -> str:
    """Render the page."""
    other = model_name(report, beside=True)
    return render_page(
        TEMPLATE,
        report=report,
        name=model_name(report),
        other=other,
        lead=lead(report.clean, report.levels()),
        comparison=comparison(list(report.levels()), other),
        clean=[level_row(report.clean)],
        sections=call_sections(report.clean, report.effects),
        counted=counted,
        number=number,
    )
