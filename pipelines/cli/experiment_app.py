"""The commands that train the mixture alone, on embeddings that exist already, and the one that makes a student."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.command_group import command_group
from pipelines.cli.options import Output, Profile, Settings

experiment_app = command_group()

Embeddings = Annotated[
    Path,
    typer.Option(
        help="Directory with utterances.parquet and <modality>.npy, or the output directory of a finished run."
    ),
]


@experiment_app.command()
def train(
    embeddings: Embeddings,
    profile: Profile = "sample",
    settings: Settings = None,
    seeds: Annotated[int, typer.Option(help="Number of seeds, counted from the profile's.", min=1)] = 1,
    ablate: Annotated[
        str | None,
        typer.Option(help="Parts to leave out: gate,contrastive,kl,context,modality_dropout,fusion."),
    ] = None,
    compare_modalities: Annotated[
        bool | None,
        typer.Option(
            "--compare-modalities/--no-compare-modalities",
            help="Also train with every subset of the modalities and compare them on dev; by default where that is cheap.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Directory for model, metrics and report; by default a new one in output/train. One that holds anything else is "
            "refused."
        ),
    ] = None,
    track: Annotated[str | None, typer.Option(metavar="URI", help="Log each seed to this MLflow server.")] = None,
    register: Annotated[
        bool, typer.Option("--register", help="Then register the model, as `mistere register` does.")
    ] = False,
    registry: Annotated[
        Path, typer.Option(metavar="DIR", help="With --register: the output directory of store and registry.")
    ] = Path("output"),
) -> None:
    """Train and evaluate the mixture on embeddings made elsewhere.

    Exit codes: 0 done, 4 data damaged, 1 error, 2 usage; with --register also 3, held or rejected by the release gate.
    """
    from pipelines.cli.commands.train import train as command

    parts = [part.strip() for part in ablate.split(",") if part.strip()] if ablate else []
    place = registry if register else None
    raise typer.Exit(
        command(embeddings, profile, settings or [], seeds, parts, output, track, place, compare_modalities)
    )


@experiment_app.command()
def tune(
    embeddings: Embeddings,
    profile: Profile = "sample",
    settings: Settings = None,
    trials: Annotated[
        int, typer.Option(help="Number of finished trials in total; a rerun continues up to it.", min=1)
    ] = 40,
    seeds: Annotated[
        int,
        typer.Option(
            help="Trainings per trial, or repetitions of the cross-validation; a trial's score is their mean.", min=1
        ),
    ] = 1,
    folds: Annotated[
        int,
        typer.Option(
            help="Folds of a cross-validation over the dialogues of train and dev, which scores trials instead of dev; "
            "0 for none.",
            min=0,
        ),
    ] = 0,
    timeout: Annotated[float | None, typer.Option(help="Minutes after which no new trial starts.", min=0)] = None,
    output: Annotated[Path, typer.Option(help="Directory for the study and its results.")] = Path("output/tune"),
) -> None:
    """Search settings of the mixture for given embeddings, on dev or by cross-validation; test is not read.

    Exit codes: 0 done, 4 data damaged, 1 error, 2 usage.
    """
    from pipelines.cli.commands.tune import tune as command

    command(embeddings, profile, settings or [], trials, seeds, folds, timeout, output)


@experiment_app.command()
def distill(
    bundle: Annotated[
        str | None,
        typer.Argument(help="Directory or s3:// URI of a bundle; by default the deployed one of the output directory."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="A dataset directory, a .dvc file, a Git revision or a DVC digest; by default what the bundle was trained on.",
        ),
    ] = None,
    profile: Profile = "sample",
    settings: Settings = None,
    output: Output = Path("output"),
    tracking: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="The MLflow server that belongs to the bundle's store; by default as `mistere run` left it.",
        ),
    ] = None,
    register: Annotated[
        bool, typer.Option("--register/--no-register", help="Make the student a version of the registry.")
    ] = True,
) -> None:
    """Make a small student of a released model, trained on its answers, report size, time and weighted F1 of both, and register it.

    The student waits for a person: `mistere approve` deploys it.

    Exit codes: 0 within the margin of the teacher, 3 not shown to be, or rejected by a person, 4 data is rejected or does not suit the model, 1 error, 2 usage.
    """
    from pipelines.cli.commands.distill import distill as command

    raise typer.Exit(command(bundle, data, profile, settings or [], output, tracking, register=register))
