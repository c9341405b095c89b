"""``mistere data``: bring data in, check it, compare versions of it. Each command imports what it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.importers import ImporterGroup
from pipelines.cli.options import ClusterStore, Profile, Settings

data_app = typer.Typer(
    help="Bring data in, check it, compare versions of it.", no_args_is_help=True, rich_markup_mode=None
)
import_app = typer.Typer(cls=ImporterGroup, no_args_is_help=True, rich_markup_mode=None)
data_app.add_typer(import_app, name="import")


@import_app.callback()
def import_() -> None:
    """Convert a corpus, or a table of your own, into the dataset form."""


@data_app.command("sample")
def data_sample(
    directory: Annotated[Path, typer.Argument(help="Where the dataset goes; must not exist.")],
    seed: Annotated[int, typer.Option(help="Decides everything in it.")] = 7,
    dialogues: Annotated[int, typer.Option(help="How many.", min=6)] = 150,
) -> None:
    """Make the synthetic sample dataset (needs the extra ``sample``)."""
    from pipelines.cli.commands.data import make_sample

    make_sample(directory, seed, dialogues)


@data_app.command("check")
def data_check(
    directory: Annotated[Path, typer.Argument(help="A dataset in the dataset form.")],
    profile: Profile = "sample",
    settings: Settings = None,
    against: Annotated[Path | None, typer.Option(help="A dataset to measure drift from.")] = None,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Set faulty dialogues aside, up to a share, in quarantine.parquet.")
    ] = False,
    output: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("output/check"),
) -> None:
    """Validate a dataset as the pipeline does.

    Exit codes: 0 accepted, 4 rejected, 1 error, 2 usage.
    """
    from pipelines.cli.commands.check import check

    raise typer.Exit(check(directory, profile, settings or [], against, quarantine, output))


@data_app.command("diff")
def data_diff(
    before: Annotated[
        str, typer.Argument(help="A version: a Git revision of data.dvc, FILE.dvc@REVISION, a DVC digest, a folder.")
    ],
    after: Annotated[str, typer.Argument(help="Another one.")] = "data.dvc",
    as_json: Annotated[bool, typer.Option("--json", help="Print it as data.")] = False,
) -> None:
    """Compare two versions of a dataset: rows, labels, speakers, durations."""
    from pipelines.cli.commands.data_diff import diff

    diff(before, after, as_json)


@data_app.command("publish")
def data_publish(
    source: Annotated[str, typer.Argument(help="As --data of submit takes it.")] = "data.dvc",
    profile: Profile = "sample",
    settings: Settings = None,
    store: ClusterStore = None,
) -> None:
    """Make a version the one that schedules with the data policy latest train on."""
    from pipelines.cli.commands.publish import publish

    publish(source, profile, settings or [], store)
