"""``monitor_traffic``: compare the champion's traffic with its bundle, write the page, and notify the webhook. Never cached."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mistere.artifacts.object_store import open_store
from mistere.config.monitoring import MonitoringConfig
from mistere.engine.execution import execute
from mistere.engine.run_settings import run_context
from mistere.engine.stage import Result, Stage, Step
from mistere.runs.outcome import TRAFFIC_PAGE, report_key

STAGE: Final = Stage(name="monitor_traffic", config=MonitoringConfig, cached=False)


def monitor(
    run: Mapping[str, Any], job: str, compiled: Mapping[str, Any], monitoring: Mapping[str, Any], page: str
) -> str:
    """Complete the parameters of a run and compare.

    Args:
        run: the run's context, as the pipeline received it.
        job: the id of the run in Kubeflow Pipelines.
        compiled: the ``profile`` that the pipeline was compiled from, and its ``section``.
        monitoring: the section, as the pipeline received it.
        page: a file for the page.

    Returns:
        The verdict.

    Raises:
        UsageError: a setting is unknown, or there is no champion.
        MistereError: there is no traffic of the champion.
    """
    context = run_context(run, job, str(compiled.get("profile", "")))
    section = {**compiled.get("section", {}), **monitoring}
    values = execute(STAGE, context.model_dump(mode="json"), section)
    content, _ = open_store(context.store).read(report_key(context.run_id, TRAFFIC_PAGE))
    Path(page).parent.mkdir(parents=True, exist_ok=True)
    Path(page).write_bytes(content)
    return values["verdict"]


def run(config: MonitoringConfig, step: Step) -> Result:
    """Name releases that nobody attends to, delete what was kept of the traffic and whose time is over, and compare.

    Args:
        config: the ``monitoring`` section.
        step: this execution.

    Raises:
        UsageError: there is no champion.
        MistereError: there is no traffic of the champion.
    """
    from mistere.reports.traffic.page import render_traffic
    from mistere.runs.traffic_monitor import monitor_traffic
    from mistere.runs.unattended import unattended_releases
    from mistere.runs.webhook import try_to_post
    from mistere.serving.traffic.retention import try_to_sweep

    try_to_sweep(step.store, time.time(), step.progress.note)
    unattended_releases(step.store, step.progress.note)
    traffic = monitor_traffic(step.store, config.since)
    key = report_key(step.run.run_id, TRAFFIC_PAGE)
    step.store.write(key, render_traffic(traffic).encode())
    for sentence in (*traffic.reasons, *traffic.notes):
        step.progress.note(sentence)
    verdict = traffic.comparison.verdict
    if verdict != "steady":
        try_to_post(traffic.message(step.store.location(key)), step.progress.note)
    return Result(values={"verdict": verdict, "headline": traffic.headline()})
