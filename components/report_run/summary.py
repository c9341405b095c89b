"""The report as JSON: ``run_report.json``."""

from __future__ import annotations

import math
from typing import Any

from components.report_run.cost_view import RunCosts
from components.report_run.run_artifacts import RunArtifacts
from components.report_run.timing import Timing
from mistere.reports.wording import NextStep, headline
from mistere.runs.outcome import EXIT_HANDLER, Outcome

SCHEMA_VERSION = 1
_DATA_FIELDS = {
    "name",
    "dvc_digest",
    "language",
    "labels",
    "rows",
    "dialogues",
    "modalities",
    "synthetic",
    "speaker_disjoint",
    "max_dialogues",
    "test_digest",
}


def summary(
    outcome: Outcome, artifacts: RunArtifacts, timing: Timing, costs: RunCosts, steps: list[NextStep], profile: str
) -> dict[str, Any]:
    """The content of the page as JSON values."""
    info = artifacts.info
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": outcome.run_id,
        "profile": info.get("profile") or profile,
        "command": info.get("command", ""),
        "started": info.get("started"),
        "commit": info.get("commit", ""),
        "dirty": info.get("dirty", False),
        "outcome": {
            "exit_code": outcome.exit_code,
            "verdict": outcome.verdict,
            "headline": headline(outcome),
            "reasons": outcome.reasons,
            "message": outcome.message,
            "candidate": outcome.candidate,
        },
        "stages": [
            record.model_dump(exclude={"stage", "values", "checksum"})
            for record in outcome.stages
            if record.task != EXIT_HANDLER
        ],
        "time": {
            "wall_seconds": timing.wall,
            "compute_seconds": timing.compute,
            "import_seconds": timing.imports,
            "overhead_seconds": timing.overhead,
            "overhead_share": timing.overhead_share,
        },
        "costs": costs.as_dict(),
        "data": _data(artifacts),
        "metrics": dict(artifacts.evaluation.metrics) if artifacts.evaluation else {},
        "runtime": dict(artifacts.evaluation.runtime) if artifacts.evaluation else {},
        "gate": [rule.model_dump() for rule in artifacts.gate.rules] if artifacts.gate else [],
        "champion_before": outcome.champion_before,
        "teacher": outcome.teacher,
        "bundle": {"digest": outcome.bundle_digest, "location": outcome.bundle},
        "next": [step.as_dict() for step in steps],
        "unreadable": artifacts.unreadable,
    }


def _data(artifacts: RunArtifacts) -> dict[str, Any] | None:
    data = artifacts.data
    if data is None:
        known = artifacts.info.get("data")
        return dict(known) if isinstance(known, dict) else None
    return data.model_dump(include=_DATA_FIELDS)


def finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON cannot represent, by null."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
