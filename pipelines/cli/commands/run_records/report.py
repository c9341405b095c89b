"""``mistere report``: the report of a run, on the terminal, as JSON, or in the browser."""

from __future__ import annotations

import json
import tempfile
import webbrowser
from pathlib import Path

from mistere.artifacts.object_store import LocalStore, MissingObjectError, ObjectStore
from mistere.common.errors import ArtifactError, MistereError
from mistere.runs.listing import REPORT_PAGE, UNFINISHED, find_run, read_report, summarize_run
from mistere.runs.outcome import REPAIR, read_outcome, report_key
from pipelines.cli.output.console import harmless_json
from pipelines.cli.output.run_display import summary
from pipelines.cli.registry_location import store_location

_PAGES = (REPORT_PAGE, "validation_report.html")
"""The report, and the page that it links to."""


def report(reference: str | None, output: Path, store: str | None, *, open_page: bool, as_json: bool) -> None:
    """Print a run's outcome and where its report is.

    Args:
        reference: the run's id or the start of it; None for the latest run.
        output: the output directory of ``mistere run``.
        store: a directory or ``s3://…``; None for ``MISTERE_STORE``, or the output directory's.
        open_page: open the page in the browser.
        as_json: print the report as JSON.

    Raises:
        UsageError: there is no such run.
        MistereError: the run has no report, or no browser can be opened.
        ArtifactError: a record of the run is damaged; the rest is printed first.
    """
    location = store_location(output, store)
    run_id = find_run(location, reference)
    run = summarize_run(location, run_id)
    damaged: list[str] = []
    if as_json:
        print(harmless_json(json.dumps(_report(location, run_id), indent=1, ensure_ascii=False)))
    elif run.outcome == UNFINISHED and not run.damaged:
        print(f"run {run_id} is still running, or was interrupted: the same `mistere run` command continues it.")
    else:
        log = output.resolve() / "runs" / run_id / "kfp.log"
        folder = location.root.parent if isinstance(location, LocalStore) else None
        print(f"run {run_id}", end="")
        outcome = read_outcome(location, run_id)
        damaged = list(dict.fromkeys(run.damaged + outcome.damaged))
        summary(outcome, folder, log if log.is_file() else None)
    if open_page:
        _report(location, run_id)
        _open(_local_page(location, run_id))
    if damaged:
        raise ArtifactError(f"the record {damaged[0]} of run {run_id} is damaged", REPAIR)


def _report(store: ObjectStore, run_id: str) -> dict[str, object]:
    content = read_report(store, run_id)
    if not content:
        raise MistereError(
            f"run {run_id} has no report, because it is still running or was interrupted: `mistere runs` shows the others."
        )
    return content


def _local_page(store: ObjectStore, run_id: str) -> Path:
    """The page as a file of this machine, with the page that it links to beside it."""
    if isinstance(store, LocalStore):
        return store.local_path(report_key(run_id, REPORT_PAGE))
    folder = Path(tempfile.mkdtemp(prefix=f"mistere-report-{run_id}-"))  # stays: the browser reads it later
    for name in _PAGES:
        try:
            (folder / name).write_bytes(store.read(report_key(run_id, name))[0])
        except MissingObjectError as error:
            if name == REPORT_PAGE:
                raise MistereError(
                    f"{store.location(report_key(run_id, name))} does not exist: the report was deleted."
                ) from error
    return folder / REPORT_PAGE


def _open(page: Path) -> None:
    if not webbrowser.open(page.as_uri()):
        raise MistereError(f"no browser could be opened on this machine: open {page} yourself.")
