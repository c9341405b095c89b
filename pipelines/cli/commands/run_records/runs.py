"""``mistere runs``: lists the runs of a store."""

from __future__ import annotations

import json
from pathlib import Path

from mistere.common.counting import counted
from mistere.common.errors import ArtifactError
from mistere.reports.evaluated_model import estimate_text
from mistere.runs.listing import RunSummary, run_ids, summarize_run
from mistere.runs.outcome import REPAIR
from pipelines.cli.commands.registry.models import code_of
from pipelines.cli.output.tables import Column, output_console, print_table
from pipelines.cli.output.times import duration_text, minute_text
from pipelines.cli.registry_location import store_location

_COLUMNS = (
    Column("run"),
    Column("started (UTC)", drop=2),
    Column("took", right=True, drop=4),
    Column("profile", drop=3),
    Column("outcome"),
    Column("weighted F1", drop=1),
    Column("code", drop=5),
    Column("bundle", drop=6),
)


def runs(output: Path, store: str | None, limit: int, *, as_json: bool) -> None:
    """Print the runs, newest first.

    Args:
        output: the output directory of ``mistere run``.
        store: a directory or ``s3://…``; None for ``MISTERE_STORE``, or the output directory's.
        limit: how many; 0 for all.
        as_json: print JSON.

    Raises:
        UsageError: the output directory has no store.
        ArtifactError: a record of a listed run is damaged; the runs are printed first.
    """
    location = store_location(output, store)
    ids = run_ids(location)
    listed = [summarize_run(location, run_id) for run_id in (ids[:limit] if limit else ids)]
    if as_json:
        print(json.dumps([run.model_dump() for run in listed], indent=1))
        _require_whole(listed)
        return
    console = output_console()
    if not listed:
        console.print(f"The store {location.uri} has no run yet: `mistere run` starts one.", markup=False)
        return
    print_table(console, _COLUMNS, [_row(run) for run in listed])
    if left := len(ids) - len(listed):
        console.print(f"{counted(left, 'earlier run')} not shown: --limit 0 lists all.", style="dim", markup=False)
    _require_whole(listed)


def _require_whole(listed: list[RunSummary]) -> None:
    damaged = [location for run in listed for location in run.damaged]
    if damaged:
        raise ArtifactError(
            f"{counted(len(damaged), 'record')} of runs cannot be read because of damage "
            f"({', '.join(damaged[:3])}{', …' if len(damaged) > 3 else ''})",
            REPAIR,
        )


def _row(run: RunSummary) -> tuple[str, ...]:
    return (
        run.run_id,
        minute_text(run.started),
        duration_text(run.seconds),
        run.profile,
        run.outcome,
        estimate_text(run.weighted_f1) if run.weighted_f1 else "",
        code_of(run.commit, run.dirty),
        run.bundle_digest[:12],
    )
