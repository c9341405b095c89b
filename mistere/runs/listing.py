"""The runs of a store, newest first, as ``mistere runs`` lists them."""

from __future__ import annotations

import re
from typing import Any, Final

from pydantic import BaseModel, Field

from mistere.artifacts.object_store import MissingObjectError, ObjectStore
from mistere.artifacts.sealed_record import unseal
from mistere.common.errors import ArtifactError, UsageError
from mistere.runs.outcome import REPAIR, Estimate, read_outcome, read_run_info, report_key, run_info_key

AFFECTS_RESULTS = False
"""How runs are listed changes no result."""

REPORT_PAGE, REPORT_DATA = "run_report.html", "run_report.json"
UNFINISHED: Final = "unfinished"
UNKNOWN: Final = "unknown"
_STARTED_IN_NAME = re.compile(r"^\d{8}-\d{6}")


class RunSummary(BaseModel):
    """A run in one row.

    Attributes:
        started: seconds since 1970; None if unknown.
        seconds: duration; None for a run that has not ended.
        outcome: the verdict; ``unfinished`` for a run that still runs or was interrupted, ``unknown`` where a damaged record holds it.
        weighted_f1: of the mixture on the test split; None if it was not evaluated.
        bundle_digest: of the bundle; empty if none was made.
        report: location of the report; empty if there is none.
        damaged: locations of the run's records that are damaged; what only they hold is missing here.
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
    damaged: list[str] = Field(default_factory=list)


def run_ids(store: ObjectStore) -> list[str]:
    """The ids of all runs, newest first; ids without a time in them follow, by the time in their record."""
    ids = {key.split("/")[1] for key in store.keys("runs") if key.endswith("/run.json")}
    named = sorted((run_id for run_id in ids if _STARTED_IN_NAME.match(run_id)), reverse=True)
    others = ids.difference(named)
    return [*named, *sorted(others, key=lambda run_id: -_started(_info(store, run_id)[0]))]


def _info(store: ObjectStore, run_id: str) -> tuple[dict[str, Any], list[str]]:
    """The record of the run's start, and its location if it is damaged."""
    try:
        return read_run_info(store, run_id), []
    except ArtifactError:
        return {}, [store.location(run_info_key(run_id))]


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
    """The report of a run as JSON values; empty if there is none.

    Raises:
        ArtifactError: it is damaged.
    """
    key = report_key(run_id, REPORT_DATA)
    try:
        report = unseal(store.read(key)[0])
    except MissingObjectError:
        return {}
    if report is None:
        raise ArtifactError(f"the report {store.location(key)} is damaged", REPAIR)
    return report


def summarize_run(store: ObjectStore, run_id: str) -> RunSummary:
    """The run in one row: from its report, or from the records of its steps if there is no report."""
    info, damaged = _info(store, run_id)
    try:
        report = read_report(store, run_id)
    except ArtifactError:
        report = {}
        damaged.append(store.location(report_key(run_id, REPORT_DATA)))
    summary = RunSummary(
        run_id=run_id,
        profile=str(info.get("profile") or ""),
        started=_started(info) or None,
        commit=str(info.get("commit") or ""),
        dirty=bool(info.get("dirty")),
        command=str(info.get("command") or ""),
        damaged=damaged,
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
            "outcome": outcome.verdict if ended else UNKNOWN if outcome.damaged else UNFINISHED,
            "weighted_f1": outcome.weighted_f1,
            "bundle_digest": outcome.bundle_digest,
            "damaged": damaged + outcome.damaged,
        }
    )
