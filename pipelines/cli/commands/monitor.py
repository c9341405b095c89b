"""``mistere monitor``: compares the champion's traffic with its bundle's profile, writes a page, and notifies the webhook."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from mistere.artifacts.object_store import ObjectStore
from mistere.common.errors import ExitCode
from mistere.config.predictor_options import VARIABLE_PREFIX
from mistere.reports.traffic.page import render_traffic, shown_chance
from mistere.runs.traffic_monitor import MonitoredTraffic, monitor_traffic
from mistere.runs.unattended import unattended_releases
from mistere.runs.webhook import try_to_post
from mistere.serving.traffic.retention import STORE_OPTIONS, try_to_sweep
from pipelines.cli.output.console import OutputConsole, harmless_json
from pipelines.cli.output.tables import Column, output_console, print_table


def monitor(store: ObjectStore, since: str, page: Path, *, as_json: bool = False, now: float | None = None) -> int:
    """Delete what was kept of the traffic and whose time is over, compare, print the outcome, and write the page.

    Releases that nobody attends to are named first.

    Args:
        store: the object store with the champion and its traffic.
        since: length of the window, such as ``7d``.
        page: the HTML file to write.
        as_json: print the whole result as JSON instead of a table.
        now: seconds since 1970; None for the current time.

    Returns:
        5 if the traffic has drifted, else 0.
    """
    errors = OutputConsole(stderr=True, highlight=False)

    def note(sentence: str) -> None:
        errors.print(sentence, markup=False, soft_wrap=True)

    named = [os.environ.get(f"{VARIABLE_PREFIX}{option.upper()}", "") for option in STORE_OPTIONS]
    try_to_sweep(store, time.time() if now is None else now, note, named)
    unattended_releases(store, note)
    traffic = monitor_traffic(store, since, now)
    page.parent.mkdir(parents=True, exist_ok=True)
    partial = page.with_name(f".{page.name}.partial")
    partial.write_text(render_traffic(traffic), encoding="utf-8")
    partial.replace(page)
    verdict = traffic.comparison.verdict
    if verdict != "steady":
        try_to_post(traffic.message(str(page.resolve())), note)
    if as_json:
        print(harmless_json(json.dumps(traffic.summary(), indent=1, ensure_ascii=False)))
    else:
        _show(traffic, page)
    return int(ExitCode.DIFFERENT if verdict == "drifted" else ExitCode.DEPLOYED)


def _show(traffic: MonitoredTraffic, page: Path) -> None:
    console = output_console()
    console.print(f"{traffic.comparison.verdict:<8} {traffic.headline()}", markup=False, soft_wrap=True)
    for sentence in (*traffic.reasons, *traffic.notes):
        console.print(f"         {sentence}", markup=False, soft_wrap=True)
    look = traffic.comparison.latest
    if look is not None:
        columns = [
            Column("figure"),
            Column("verdict"),
            Column("distance", right=True),
            Column("bound", right=True, drop=1),
            Column("by chance", right=True, drop=2),
        ]
        rows = [
            [
                one.name,
                "drifted" if one.drifted else "moved" if one.moved else "steady",
                f"{one.distance:.3f}",
                f"{one.bound:.2f}",
                shown_chance(one.corrected),
            ]
            for one in look.measures
        ]
        print_table(console, columns, rows)
        console.print(
            f"A figure moved if its probability by chance is at most {shown_chance(look.level)}, and drifted if its distance is above its "
            "bound as well.",
            markup=False,
            soft_wrap=True,
        )
    console.print(f"report   {page}", markup=False, soft_wrap=True)
