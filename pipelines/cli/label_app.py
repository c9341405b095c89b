"""``mistere label`` and ``mistere traffic``: dialogues that were kept of live traffic, for people to label, their deletion, and the log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.command_group import command_group
from pipelines.cli.options import Output, StoreLocation

label_app = command_group("Have people label dialogues of live traffic, and add them to a dataset.")
traffic_app = command_group("Show the log of requests, and delete what was kept of live traffic.")


@label_app.callback()
def label_() -> None:
    """Have people label dialogues of live traffic, and add them to a dataset."""


@label_app.command("export")
def label_export(
    directory: Annotated[Path, typer.Argument(help="Directory of the export; must not exist.")],
    count: Annotated[int, typer.Option(help="Number of dialogues.", min=1, max=100_000)] = 100,
    base: Annotated[
        Path | None,
        typer.Option(help="A dataset: its labels are the choices, and its dialogues are chosen by chance only."),
    ] = None,
    without: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="EXPORT", help="An earlier export, whose dialogues are chosen by chance only; may be repeated."
        ),
    ] = None,
    weight: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=NUMBER", help="Weight of uncertainty, disagreement, rarity or diversity; by default 1 each."
        ),
    ] = None,
    random: Annotated[float, typer.Option(help="Share that is drawn by chance.", min=0, max=1)] = 0.1,
    seed: Annotated[int, typer.Option(help="Random seed; the same seed gives the same choice.")] = 0,
    audio_url: Annotated[
        str,
        typer.Option(metavar="URL", help="Where Label Studio finds the recordings; by default in its local storage."),
    ] = "",
    output: Output = Path("output"),
    store: StoreLocation = None,
) -> None:
    """Choose the dialogues to label next, and write them as tasks for Label Studio and as a table."""
    from pipelines.cli.commands.label.export import export

    export(directory, output, store, count, base, without or [], weight or [], random, seed, audio_url)


@label_app.command("import")
def label_import(
    export: Annotated[Path, typer.Argument(help="Directory of the export that was labelled.")],
    answers: Annotated[Path, typer.Argument(help="Label Studio's export of the project, in the format JSON.")],
    directory: Annotated[Path, typer.Argument(help="Directory of the new dataset; must not exist.")],
    base: Annotated[Path, typer.Option(help="The dataset to copy and extend.")],
    annotators: Annotated[int, typer.Option(help="Annotators that a turn needs.", min=1, max=1000)] = 1,
    split: Annotated[str, typer.Option(help="Split of the new dialogues: train, dev or test.")] = "train",
    report: Annotated[
        Path, typer.Option(metavar="DIR", help="Directory of the summary and of what was set aside.")
    ] = Path("output/labels"),
) -> None:
    """Add labelled dialogues to a copy of a dataset, with the annotators' agreement.

    Exit codes: 0 imported, 4 answers or data damaged or no turn labelled, 1 error, 2 usage.
    """
    from pipelines.cli.commands.label.import_labels import import_labels

    import_labels(export, answers, directory, base, annotators, split, report)


@traffic_app.callback()
def traffic_() -> None:
    """Show the log of requests, and delete what was kept of live traffic."""


@traffic_app.command("log")
def traffic_log(
    since: Annotated[
        str, typer.Option(metavar="TIME", help="How far to look back: days or hours, such as 7d or 36h.")
    ] = "24h",
    errors: Annotated[bool, typer.Option("--errors", help="Only requests that were refused or failed.")] = False,
    request: Annotated[
        str | None, typer.Option(metavar="ID", help="Only the request with this id, as the client sent it.")
    ] = None,
    dialogue: Annotated[
        str | None, typer.Option(metavar="DIALOGUE_ID", help="Only requests with this id of a dialogue.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Number of requests, the latest ones; 0 for all.", min=0)] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="Print the lines of the log as JSON lines.")] = False,
    output: Output = Path("output"),
    store: StoreLocation = None,
) -> None:
    """Show the requests that the predictor logged (--request-log-share), in the order of their times, in UTC."""
    from pipelines.cli.commands.request_log import Choice, show_log
    from pipelines.cli.registry_location import store_location

    choice = Choice(since, errors, request, dialogue, limit)
    show_log(store_location(output, store), choice, as_json=as_json)


@traffic_app.command("delete")
def traffic_delete(
    dialogue: Annotated[str, typer.Argument(metavar="DIALOGUE_ID", help="The id that the client sent.")],
    export: Annotated[
        list[Path] | None, typer.Option(metavar="EXPORT", help="Delete it from this export, too; may be repeated.")
    ] = None,
    output: Output = Path("output"),
    store: StoreLocation = None,
) -> None:
    """Delete all that was kept of a dialogue: text, recordings, vectors, answers, and its lines in the request log."""
    from pipelines.cli.commands.label.kept_dialogues import delete

    delete(output, store, dialogue, export or [])


@traffic_app.command("sweep")
def traffic_sweep(output: Output = Path("output"), store: StoreLocation = None) -> None:
    """Delete the kept dialogues and files of the request log whose time is over, as the predictor and `mistere monitor` do."""
    from pipelines.cli.commands.label.kept_dialogues import sweep

    sweep(output, store)
