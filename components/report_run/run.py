"""``report_run``: write the run report as a page and as JSON, notify a webhook, and delete leftover cluster resources.

The exit handler runs whether the run succeeded or not.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from mistere.artifacts.sealed_record import seal
from mistere.common.urls import redact_url
from mistere.config.registry import RegistryConfig
from mistere.engine.stage import Result, Stage, Step
from mistere.runs.outcome import RELEASE_VALUE, read_outcome, report_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from components.report_run.run_artifacts import RunArtifacts
    from mistere.registry.mlflow.run_logging import LoggedRun
    from mistere.runs.outcome import Outcome

STAGE = Stage(
    name="report_run",
    config=RegistryConfig,
    imports=("matplotlib.figure", "matplotlib.backends.backend_svg", "jinja2", "pyarrow.parquet"),
    cached=False,
)
PAGE, DATA = "run_report.html", "run_report.json"


def run(config: RegistryConfig, step: Step) -> Result:
    """Write ``run_report.html`` and ``run_report.json`` under the run's id, notify the webhook, if one is set, and clean up.

    If the run has left a release unfinished, the report and the message say so first, and say again what has become of it. The cleanup
    comes whatever becomes of the report.

    Args:
        config: the ``registry`` section.
        step: this execution.
    """
    from components.report_run.cleanup import clean_up, interrupted_release
    from mistere.reports.wording import headline

    try:
        outcome = _report(config, step, interrupted_release(step))
    finally:
        release = clean_up(step, _config_of_run(step))
    if release:
        outcome = _report(config, step, release)
    step.progress(headline(outcome))
    return Result(
        values={
            "verdict": outcome.verdict,
            "exit_code": str(outcome.exit_code),
            "report": outcome.report,
            "mlflow": outcome.mlflow,
            "experiment": outcome.experiment,
            RELEASE_VALUE: release,
        }
    )


def _config_of_run(step: Step) -> Mapping[str, Any]:
    """The run's configuration, by section; empty if it cannot be read, which the report says."""
    from mistere.common.errors import MistereError
    from mistere.runs.outcome import read_run_info

    try:
        return read_run_info(step.store, step.run.run_id).get("config") or {}
    except MistereError:
        return {}


def _report(config: RegistryConfig, step: Step, release: str) -> Outcome:
    """Write the report, log it and send it.

    Args:
        config: the ``registry`` section.
        step: this execution.
        release: a sentence on what the run has left of a release; empty for nothing.
    """
    from components.report_run.cost_view import RunCosts
    from components.report_run.notification import notify
    from components.report_run.run_artifacts import gather
    from components.report_run.summary import finite, summary
    from components.report_run.timing import measure
    from components.report_run.view import render
    from mistere.reports.wording import headline, next_steps

    outcome: Outcome = read_outcome(step.store, step.run.run_id)
    if release and release not in outcome.reasons:  # the record of a handler that Argo repeats has it already
        outcome.reasons.insert(0, release)
    artifacts = gather(step.store, outcome)
    costs = RunCosts(outcome, config.costs)
    logged = _log(config, step, outcome, artifacts, costs.total.metrics("cost.run.")) if config.log_report else None
    if logged is not None:
        outcome.mlflow, outcome.experiment = redact_url(step.run.tracking_uri), logged.experiment_id
    timing = measure(outcome, artifacts.info, time.time())
    planned = outcome.finished("plan_distillation")  # a student has its teacher's name
    model_name = (planned.values.get("model_name") if planned else "") or config.model_name
    steps = next_steps(outcome, artifacts.info, redact_url(step.run.tracking_uri))
    plain: dict[str, Any] = finite(summary(outcome, artifacts, timing, costs, steps, step.run.profile))
    with tempfile.TemporaryDirectory() as scratch:
        data, page = Path(scratch) / DATA, Path(scratch) / PAGE
        data.write_bytes(seal(plain))
        step.report(DATA, data)
        page.write_text(
            render(outcome, artifacts, timing, costs, steps, step.run.profile, model_name), encoding="utf-8"
        )
        step.report(PAGE, page)
        if logged is not None:
            _log_page(step, logged, page)
    _remember(step, outcome)
    notify(outcome, step.run.profile, headline(outcome), step.progress, step.store)
    return outcome


def _remember(step: Step, outcome: Outcome) -> None:
    """Let the next run with the same inputs take over the steps of this one, if no cached step is left to do."""
    from mistere.engine.finished_run import INPUTS_VALUE, remember

    resolved = outcome.finished("resolve_inputs")
    digest = resolved.values.get(INPUTS_VALUE, "") if resolved else ""
    # A cloned run, or a repeated one that found another champion, leaves records of other inputs under the same id.
    current = outcome.model_copy(
        update={"stages": [record for record in outcome.stages if record.inputs_digest == digest]}
    )
    validated = current.finished("validate_data")
    rejected = validated is not None and validated.values.get("verdict") == "reject"
    if digest and not outcome.damaged and (rejected or current.finished("gate_model")):
        remember(step.store, step.run.run_id, digest, current.stages)


def _log(
    config: RegistryConfig, step: Step, outcome: Outcome, artifacts: RunArtifacts, costs: Mapping[str, float]
) -> LoggedRun | None:
    """Log the run in MLflow; an unavailable server is only noted."""
    from mistere.artifacts.identities import DatasetIdentity
    from mistere.common.errors import MistereError
    from mistere.registry.mlflow.run_logging import RunRecord, artifact_root, log_run, run_tags, start_facts
    from mistere.reports.wording import headline

    data, evaluation = artifacts.data, artifacts.evaluation
    start = start_facts({**step.run.identity.model_dump(), **artifacts.info})
    record = RunRecord(
        run_id=step.run.run_id,
        metrics={**(evaluation.metrics | evaluation.runtime if evaluation else {}), **costs},
        dataset=data.dataset if data else DatasetIdentity(),
        **{
            **start,
            "tags": {
                **start["tags"],
                **run_tags(step.run.identity),
                "mistere.outcome": outcome.verdict,
                "mlflow.note.content": "\n\n".join([headline(outcome), *outcome.reasons]),
            },
        },
        status="KILLED" if outcome.stopped else "FAILED" if outcome.verdict == "failed" else "FINISHED",
    )
    try:
        return log_run(step.run.tracking_uri, config, record, artifact_root(step.store.uri))
    except MistereError as error:
        step.progress.note(f"the run was not logged in MLflow: {error}")
        return None


def _log_page(step: Step, logged: LoggedRun, page: Path) -> None:
    from mistere.common.errors import MistereError
    from mistere.registry.mlflow.run_logging import log_files

    try:
        log_files(step.run.tracking_uri, logged, [page])
    except MistereError as error:
        step.progress.note(f"the report was not logged in MLflow: {error}")


def complete_registry(compiled: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The ``registry`` section, completed from the profile that the pipeline was compiled from.

    A section that is not valid ended the run in ``resolve_inputs``; the report on that needs the compiled one.

    Args:
        compiled: the ``sections`` of the profile, by name.
        given: the section, complete or in part.
    """
    whole = dict(compiled.get("sections", {}).get("registry", {}))
    try:
        return RegistryConfig.model_validate({**whole, **given}).model_dump(mode="json", exclude_none=True)
    except ValidationError:
        return whole


def copy_page(run: Mapping[str, Any], path: str) -> None:
    """Copy the page to the path of the KFP artifact."""
    from mistere.artifacts.object_store import open_store
    from mistere.engine.stage import RunContext

    context = RunContext.model_validate(dict(run))
    open_store(context.store).download(report_key(context.run_id, PAGE), Path(path))
