"""``report_run``: one page and one JSON file about the run, written whatever happened before."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.core.config.registry import RegistryConfig
from components.core.outcome import read_outcome
from components.core.registry import shown_uri
from components.core.stage import Result, Stage, Step

if TYPE_CHECKING:
    from components.core.outcome import Outcome

STAGE = Stage(
    name="report_run",
    config=RegistryConfig,
    imports=("matplotlib.figure", "matplotlib.backends.backend_svg", "jinja2", "pyarrow.parquet"),
    cached=False,
)
PAGE, DATA = "run_report.html", "run_report.json"


def run(config: RegistryConfig, step: Step) -> Result:
    """Write ``run_report.html`` and ``run_report.json`` under the run's id.

    Args:
        config: the ``registry`` section.
        step: this execution.
    """
    from components.report_run.material import gather
    from components.report_run.summary import finite, summary
    from components.report_run.timing import measure
    from components.report_run.view import render
    from components.report_run.wording import headline, next_steps

    outcome: Outcome = read_outcome(step.store, step.run.run_id)
    material = gather(step.store, outcome)
    timing = measure(outcome, material.info, time.time())
    steps = next_steps(outcome, material.info, shown_uri(step.run.tracking_uri))
    plain: dict[str, Any] = finite(summary(outcome, material, timing, steps, step.run.profile))
    with tempfile.TemporaryDirectory() as scratch:
        data, page = Path(scratch) / DATA, Path(scratch) / PAGE
        data.write_text(json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")
        step.report(DATA, data)
        page.write_text(render(outcome, material, timing, steps, step.run.profile, config.model_name), encoding="utf-8")
        step.report(PAGE, page)
    step.progress(headline(outcome))
    return Result(values={"verdict": outcome.verdict, "exit_code": str(outcome.exit_code), "report": outcome.report})
