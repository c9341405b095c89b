"""The runs of a store, newest first, as ``mistere runs`` lists them."""

from __future__ import annotations

import re
from typing import Any, Final

from pydantic import BaseModel

from mistere.artifacts.object_store import MissingObjectError, ObjectStore
from mistere.common.errors import UsageError
from mistere.common.parsing.documents import load_json
from mistere.runs.outcome import Estimate, read_outcome, read_run_info, report_key

AFFECTS_RESULTS = False
"""How runs are listed changes no result."""

REPORT_PAGE, REPORT_DATA = "run_report.html", "run_report.json"
UNFINISHED: Final = "unfinished"
_STARTED_IN_NAME = re.compile(r"^\d{8}-\d{6}")


class RunSummary(BaseModel):
    """A run in one row.

    Attributes:
        started: seconds since 1970; None if unknown.
        seconds: duration; None for a run that has not ended.
        outcome: the verdict, or ``unfinished`` for a run that still runs or was interrupted.
        weighted_f1: of the mixture on the test split; None if it was not evaluated.
        bundle_digest: of the bundle; empty if none was made.
        report: location of the report; empty if there is none.
    """

    run_id: str
    profile: str = ""
    started: float | None = None
    seconds: float | None = None
    outcome: str = UNFINISHED
    weighted_f1: Estimate | None = None
    commit: str = ""
    dirty: bool = False
    command: str = ""
    bundle_digest: str = ""
    report: str = ""


def run_ids(store: ObjectStore) -> list[str]:
    """The ids of all runs, newest first; ids without a time in them follow, by the time in their record."""
    ids = {key.split("/")[1] for key in store.keys("runs") if key.endswith("/run.json")}
    named = sorted((run_id for run_id in ids if _STARTED_IN_NAME.match(run_id)), reverse=True)
    others = ids.difference(named)
    return [*named, *sorted(others, key=lambda run_id: -_started(read_run_info(store, run_id)))]


def _started(info: dict[str, Any]) -> float:
    value = info.get("started")
    return float(value) if isinstance(value, int | float) else 0.0


def find_run(store: ObjectStore, reference: str | None) -> str:
    """The id of a run.

    Args:
        store: the object store.
        reference: an id or the start of one; None for the latest run.

    Raises:
        UsageError: there is no such run, or several ids start so.
    """
    ids = run_ids(store)
    if not ids:
        raise UsageError(f"the store {store.uri} has no run: start one with `mistere run`.")
    if reference is None:
        return ids[0]
    matches = [run_id for run_id in ids if run_id == reference] or [
        run_id for run_id in ids if reference and run_id.startswith(reference)
    ]
    if not matches:
        raise UsageError(f"the store {store.uri} has no run {reference!r}: `mistere runs` lists those that it has.")
    if len(matches) > 1:
        raise UsageError(
            f"{reference!r} is the start of {len(matches)} runs ({', '.join(matches[:3])}, …): write more of it."
        )
    return matches[0]


def read_report(store: ObjectStore, run_id: str) -> dict[str, Any]:
    """The report of a run as JSON values; empty if there is none."""
    try:
        report = load_json(store.read(report_key(run_id, REPORT_DATA))[0])
    except (MissingObjectError, ValueError):
        return {}
    return report if isinstance(report, dict) else {}


def summarize_run(store: ObjectStore, run_id: str) -> RunSummary:
    """The run in one row: from its report, or from the records of its steps if there is no report."""
    info, report = read_run_info(store, run_id), read_report(store, run_id)
    summary = RunSummary(
        run_id=run_id,
        profile=str(info.get("profile") or ""),
        started=_started(info) or None,
        commit=str(info.get("commit") or ""),
        dirty=bool(info.get("dirty")),
        command=str(info.get("command") or ""),
    )
    if report:
        return summary.model_copy(
            update={
                "seconds": (report.get("time") or {}).get("wall_seconds"),
                "outcome": str((report.get("outcome") or {}).get("verdict") or UNFINISHED),
                "weighted_f1": Estimate.of(report.get("metrics") or {}, "test.weighted_f1"),
                "bundle_digest": str((report.get("bundle") or {}).get("digest") or ""),
                "report": store.location(report_key(run_id, REPORT_PAGE)),
            }
        )
    outcome = read_outcome(store, run_id)
    ended = outcome.verdict != "failed" or any(record.status == "failed" for record in outcome.stages)
    return summary.model_copy(
        update={
            "outcome": outcome.verdict if ended else UNFINISHED,
            "weighted_f1": outcome.weighted_f1,
            "bundle_digest": outcome.bundle_digest,
        }
    )
