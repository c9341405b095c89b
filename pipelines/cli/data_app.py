"""``mistere data``: import datasets, validate them, compare and publish versions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.command_group import command_group
from pipelines.cli.importers import ImporterGroup
from pipelines.cli.options import ClusterStore, Profile, Settings

data_app = command_group("Import, validate, compare and publish datasets.")
import_app = command_group("Convert a corpus, or a table of utterances, to the dataset form.", ImporterGroup)
data_app.add_typer(import_app, name="import")


@import_app.callback()
def import_() -> None:
    """Convert a corpus, or a table of utterances, to the dataset form."""


@data_app.command("sample")
def data_sample(
    directory: Annotated[Path, typer.Argument(help="Directory of the new dataset; must not exist.")],
    seed: Annotated[int, typer.Option(help="Random seed; the same seed gives the same dataset.")] = 7,
    dialogues: Annotated[int, typer.Option(help="Number of dialogues.", min=6)] = 260,
    faces: Annotated[bool, typer.Option("--faces", help="Add drawn faces, as a third modality.")] = False,
) -> None:
    """Generate the synthetic sample dataset (needs the extra sample)."""
    from pipelines.cli.commands.data.sample import make_sample

    make_sample(directory, seed, dialogues, faces=faces)


@data_app.command("card")
def data_card(
    directory: Annotated[Path, typer.Argument(help="A dataset in the dataset form.")],
) -> None:
    """Write a dataset's card, croissant.json, for catalogues and loaders of datasets."""
    from pipelines.cli.commands.data.card import card

    card(directory)


@data_app.command("convert-pickle")
def data_convert_pickle(
    source: Annotated[Path, typer.Argument(help="A pickle with features.")],
    target: Annotated[
        Path, typer.Argument(help="The new .npz file, which an import reads as features; must not exist.")
    ],
    names: Annotated[str, typer.Option(help="Path of the utterances' names in it, such as '*/id'.")] = "",
    vectors: Annotated[str, typer.Option(help="Path of their vectors, such as '*/vision'.")] = "",
) -> None:
    """Convert the features in a pickle, without running it.

    Without --names and --vectors, the contents are listed. A pickle of anything else than dicts, lists, numpy arrays, texts and
    numbers is refused.
    """
    from pipelines.cli.commands.data.convert_pickle import convert_pickle

    convert_pickle(source, target, names, vectors)


@data_app.command("check")
def data_check(
    directory: Annotated[Path, typer.Argument(help="A dataset in the dataset form.")],
    profile: Profile = "sample",
    settings: Settings = None,
    against: Annotated[Path | None, typer.Option(help="A dataset to measure drift against.")] = None,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Move faulty dialogues, up to a share, to quarantine.parquet.")
    ] = False,
    output: Annotated[Path, typer.Option(help="Directory of the report.")] = Path("output/check"),
) -> None:
    """Validate a dataset with the checks of the pipeline.

    Exit codes: 0 accepted, 4 rejected, 1 error, 2 usage.
    """
    from pipelines.cli.commands.data.check import check

    raise typer.Exit(check(directory, profile, settings or [], against, quarantine, output))


@data_app.command("diff")
def data_diff(
    before: Annotated[
        str, typer.Argument(help="A version: a Git revision of data.dvc, FILE.dvc@REVISION, a DVC digest, a directory.")
    ],
    after: Annotated[str, typer.Argument(help="Another version.")] = "data.dvc",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare two versions of a dataset: rows, labels, speakers, durations."""
    from pipelines.cli.commands.data.diff import diff

    diff(before, after, as_json)


@data_app.command("publish")
def data_publish(
    source: Annotated[
        str, typer.Argument(help="The version, in any form that `mistere submit --data` takes.")
    ] = "data.dvc",
    profile: Profile = "sample",
    settings: Settings = None,
    store: ClusterStore = None,
) -> None:
    """Publish a dataset version for the schedules whose data policy is latest."""
    from pipelines.cli.commands.data.publish import publish

    publish(source, profile, settings or [], store)
