"""``mistere gate-table``: how a run ended, as Markdown for a job's summary or a comment."""

from __future__ import annotations

from pathlib import Path

from mistere.common.code_digest import git_state
from mistere.common.errors import UsageError
from pipelines.cli.gate_table import last_run, markdown
from pipelines.cli.registry_location import store_location


def gate_table(run: str | None, commit: str | None, output: Path, store: str | None) -> None:
    """Print the table.

    Args:
        run: its id; None for the last one of a commit.
        commit: the commit; None for the one that is checked out.
        output: the folder of ``mistere run``.
        store: a folder or ``s3://…``; None for ``MISTERE_STORE``, or the output folder's.
    """
    place = store_location(output, store)
    if run is None:
        commit = commit or git_state()[0]
        if not commit:
            raise UsageError("this is no Git repository, so no commit tells which run is meant: name the run.")
        run = last_run(place, commit)
    print(markdown(place, run), end="")
