"""``mistere gate-table``: the outcome of a run as Markdown, for the summary or a comment of a CI job."""

from __future__ import annotations

from pathlib import Path

from mistere.common.digests.code import git_state
from mistere.common.errors import UsageError
from pipelines.cli.output.gate_table import last_run, markdown
from pipelines.cli.registry_location import store_location


def gate_table(run: str | None, commit: str | None, output: Path, store: str | None) -> None:
    """Print the table.

    Args:
        run: id of the run; None for the latest one of a commit.
        commit: the commit; None for the one that is checked out.
        output: the output directory of ``mistere run``.
        store: a directory or ``s3://…``; None for ``MISTERE_STORE``, or the output folder's.
    """
    location = store_location(output, store)
    if run is None:
        commit = commit or git_state()[0]
        if not commit:
            raise UsageError("there is no Git commit to find the run by: name the run.")
        run = last_run(location, commit)
    print(markdown(location, run), end="")
