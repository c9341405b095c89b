"""``mistere data``: bring data in, check it, compare versions of it. Each command imports what it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import ClusterStore, Profile, Settings

data_app = typer.Typer(
    help="Bring data in, check it, compare versions of it.", no_args_is_help=True, rich_markup_mode=None
)
import_app = typer.Typer(
    help="Bring a corpus, or a table of your own, into the dataset form.", no_args_is_help=True, rich_markup_mode=None
)
data_app.add_typer(import_app, name="import")


@data_app.command("sample")
def data_sample(
    directory: Annotated[Path, typer.Argument(help="Where the dataset goes; must not exist.")],
    seed: Annotated[int, typer.Option(help="Decides everything in it.")] = 7,
    dialogues: Annotated[int, typer.Option(help="How many.", min=6)] = 150,
) -> None:
    """Make the synthetic sample dataset (needs the extra ``sample``)."""
    from pipelines.cli.commands.data import make_sample

    make_sample(directory, seed, dialogues)


Source = Annotated[Path, typer.Argument(help="The release, as it lies on disk.")]
Target = Annotated[Path, typer.Argument(help="Where the dataset goes; must not exist.")]
TextOnly = Annotated[bool, typer.Option("--text-only", help="Leave audio out.")]


@import_app.command("meld")
def import_meld(
    source: Source,
    directory: Target,
    media: Annotated[
        Path | None, typer.Option(help="Where the media folders are; beside the tables by default.")
    ] = None,
    text_only: TextOnly = False,
) -> None:
    """MELD: its tables and, where they are there, the clips of the utterances."""
    from pipelines.cli.commands.data import import_corpus

    import_corpus("meld", source, directory, media=media, text_only=text_only)


@import_app.command("iemocap")
def import_iemocap(
    source: Source,
    directory: Target,
    classes: Annotated[int, typer.Option(help="6, or 4 (happy and excited are one).")] = 6,
    dev_session: Annotated[int, typer.Option(help="The session that is dev; 5 is test.", min=1, max=4)] = 4,
    text_only: TextOnly = False,
) -> None:
    """IEMOCAP: its five sessions, the last one as test."""
    from pipelines.cli.commands.data import import_corpus

    import_corpus("iemocap", source, directory, classes=classes, dev_session=dev_session, text_only=text_only)


@import_app.command("mosi")
def import_mosi(
    source: Source,
    directory: Target,
    zero: Annotated[str, typer.Option(help="What a score of 0 is: positive, or drop.")] = "positive",
    text_only: TextOnly = False,
) -> None:
    """CMU-MOSI: segments, transcripts and scores, as negative and positive."""
    from pipelines.cli.commands.data import import_corpus

    import_corpus("mosi", source, directory, zero=zero, text_only=text_only)


@import_app.command("table")
def import_table(
    source: Annotated[Path, typer.Argument(help="CSV, TSV, JSONL or parquet, a row an utterance.")],
    directory: Target,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=COLUMN", help="The table's name for dialogue_id, turn, text, audio, label, speaker, split."
        ),
    ] = None,
    audio: Annotated[Path | None, typer.Option(help="The folder that the table's audio paths start from.")] = None,
    labels: Annotated[str, typer.Option(help="The labels in order, with commas; else by name.")] = "",
    name: Annotated[str, typer.Option(help="The dataset's name; else the file's.")] = "",
    language: Annotated[str, typer.Option(help="Of the transcripts, a tag such as en.")] = "en",
    licence: Annotated[str, typer.Option(help="Under which the data may be used.")] = "",
    splits: Annotated[
        str, typer.Option(help="Shares of train, dev and test, where the table names no split.")
    ] = "0.8,0.1,0.1",
    seed: Annotated[int, typer.Option(help="Decides which dialogue goes where.")] = 0,
    base: Annotated[
        Path | None, typer.Option(help="A dataset that is taken over; the table's dialogues replace their namesakes.")
    ] = None,
    missing_audio: Annotated[str, typer.Option(help="What a missing audio file is: fail, or missing.")] = "fail",
    text_only: TextOnly = False,
) -> None:
    """A table of your own; also a quarantine file that was mended, or a batch of new dialogues (--base)."""
    from pipelines.cli.commands.data import import_table as command

    command(
        source,
        directory,
        column or [],
        labels,
        splits,
        audio=audio,
        name=name,
        language=language,
        licence=licence,
        seed=seed,
        base=base,
        missing_audio=missing_audio,
        text_only=text_only,
    )


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
