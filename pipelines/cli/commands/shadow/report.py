"""``mistere shadow report``: compares the deployed version with its shadow, and writes a page."""

from __future__ import annotations

import json
from pathlib import Path

from mistere.artifacts.object_store import ObjectStore
from mistere.common.counting import counted
from mistere.common.errors import ExitCode, UsageError
from mistere.common.names import shown
from mistere.reports.shadow.page import render_shadow
from mistere.runs.shadow_comparison import ShadowComparison, compare_shadow
from mistere.serving.shadow.summary import shown_share
from pipelines.cli.commands.shadow.lifecycle import deployed
from pipelines.cli.output.tables import Column, output_console, print_table

_CODES = {"alike": ExitCode.DEPLOYED, "different": ExitCode.DIFFERENT, "undecided": ExitCode.WAITING}
_SHOWN_DIALOGUES = 5


def report(
    store: ObjectStore, since: str, min_agreement: float, max_errors: float, page: Path, *, as_json: bool = False
) -> int:
    """Compare, print the outcome, and write the page.

    Args:
        store: the object store.
        since: length of the window, such as ``7d``.
        min_agreement: least share of turns with equal labels.
        max_errors: largest share of errors.
        page: the HTML file to write.
        as_json: print the whole result as JSON.

    Returns:
        0 if they are alike, 5 if they differ, 6 if too little was compared to say.

    Raises:
        UsageError: there is no shadow.
        MistereError: nothing was copied.
    """
    for name, value in (("--min-agreement", min_agreement), ("--max-errors", max_errors)):
        if not 0 <= value <= 1:
            raise UsageError(f"{name} {value:g} is no share: give a number from 0 to 1.")
    comparison = compare_shadow(store, deployed(store), since, min_agreement, max_errors)
    page.parent.mkdir(parents=True, exist_ok=True)
    partial = page.with_name(f".{page.name}.partial")
    partial.write_text(render_shadow(comparison), encoding="utf-8")
    partial.replace(page)
    if as_json:
        print(json.dumps(comparison.as_dict(), indent=1, ensure_ascii=True))
    else:
        _show(comparison, page)
    return int(_CODES[comparison.summary.verdict])


def _show(comparison: ShadowComparison, page: Path) -> None:
    console = output_console()
    summary = comparison.summary

    def line(name: str, text: str) -> None:
        console.print(f"{name:<10} {text}", markup=False, soft_wrap=True)

    line(summary.verdict, comparison.headline())
    for sentence in (*summary.reasons, *comparison.notes):
        line("", sentence)
    rows = [[label, f"{share.of:,}", shown_share(share)] for label, share in summary.by_label.items()]
    if rows:
        columns = [Column("label of the deployed version"), Column("turns", right=True), Column("same label")]
        print_table(console, columns, rows)
    times = summary.latencies()
    line("latency", "; ".join(f"{side} p50 {_ms(each['p50'])}, p99 {_ms(each['p99'])}" for side, each in times.items()))
    confidence = summary.confidences()
    line(
        "confidence", ", ".join(f"{side} {value}" for side, value in confidence.items() if value is not None) or "none"
    )
    line("copies", ", ".join(f"{count:,} {name}" for name, count in summary.counts.outcomes.items() if count) or "none")
    for one in summary.counts.dialogues[:_SHOWN_DIALOGUES]:
        line(
            "differs",
            f"{shown(one.identity)}: {one.differing} of {counted(one.turns, 'turn')}, distance {one.distance:.2f}",
        )
    line("report", str(page))


def _ms(value: float | None) -> str:
    return "none" if value is None else f"{value:.1f} ms"
