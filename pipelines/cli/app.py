"""The ``mistere`` command. Only what is needed for ``--help`` is imported here; each command imports its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mistere.common.errors import MistereError, UsageError
from mistere.common.os_errors import disk_error
from pipelines.cli.data_app import data_app
from pipelines.cli.options import ClusterStore, ClusterTracking, Host, Output, Profile, Settings

app = typer.Typer(
    help="Train, judge, release and serve a model of emotions in conversations.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")
schedule_app = typer.Typer(help="Runs that a cluster starts by itself.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(schedule_app, name="schedule")

Embeddings = Annotated[
    Path, typer.Option(help="utterances.parquet and <modality>.npy; or the output folder of a finished run.")
]


@app.command()
def run(
    profile: Profile = "sample",
    data: Annotated[
        str | None,
        typer.Option(
            help="A dataset folder, the .dvc file that tracks one (FILE.dvc@REVISION: as it was), a Git revision of data.dvc, "
            "or a DVC digest."
        ),
    ] = None,
    settings: Settings = None,
    output: Output = Path("output"),
    tracking: Annotated[
        str | None, typer.Option(metavar="URI", help="The MLflow server; by default a database in the output folder.")
    ] = None,
    quarantine: Annotated[
        bool,
        typer.Option("--quarantine", help="Set faulty dialogues aside, up to a share, instead of rejecting the data."),
    ] = False,
) -> None:
    """Run the whole pipeline here.

    Exit codes: 0 deployed, 3 the gate held or rejected, 4 data rejected, 1 error, 2 usage.
    """
    from pipelines.cli.commands.run import run as command

    chosen = [*(settings or []), *(["validation.quarantine=true"] if quarantine else [])]
    raise typer.Exit(command(profile, data, chosen, output, tracking))


@app.command("compile")
def compile_(
    profile: Profile = "sample",
    settings: Settings = None,
    output: Annotated[Path, typer.Option(help="The file to write.")] = Path("pipelines/retraining.yaml"),
) -> None:
    """Compile the pipeline to KFP's YAML."""
    from pipelines.compile import compile_pipeline

    compile_pipeline(profile, settings or [], output)
    typer.echo(f"wrote {output}")


AllowDirty = Annotated[
    bool, typer.Option("--allow-dirty", help="Take a tree with changes that no commit holds, for a trial.")
]


@app.command()
def submit(
    profile: Profile = "sample",
    data: Annotated[
        str | None, typer.Option(help="As for run; its DVC remote must be s3://. A folder goes into the store.")
    ] = None,
    settings: Settings = None,
    host: Host = None,
    store: ClusterStore = None,
    tracking: ClusterTracking = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the run, and exit as it ends.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Run again what was submitted before.")] = False,
    allow_dirty: AllowDirty = False,
    if_changed: Annotated[
        bool, typer.Option("--if-changed", help="Exit with 0 where the same was submitted before and did not fail.")
    ] = False,
) -> None:
    """Start the pipeline on a cluster, unless the same commit, profile and data were submitted before.

    Exit codes: 0 started; with --wait 0 deployed, 3 the gate held or rejected, 4 data rejected; 1 error, 2 usage.
    """
    from pipelines.cli.commands.submit import submit as command

    code = command(
        profile,
        data,
        settings or [],
        host=host,
        store=store,
        tracking=tracking,
        wait=wait,
        force=force,
        allow_dirty=allow_dirty,
        if_changed=if_changed,
    )
    raise typer.Exit(code)


ScheduleFile = Annotated[Path, typer.Argument(help="The file of schedules.")]


@schedule_app.command("diff")
def schedule_diff(
    file: ScheduleFile = Path("pipelines/schedules.yaml"),
    host: Host = None,
    store: ClusterStore = None,
    tracking: ClusterTracking = None,
) -> None:
    """Print what apply would change.

    Exit codes: 0 nothing, 5 something, 1 error, 2 usage.
    """
    from pipelines.cli.commands.schedule import diff

    raise typer.Exit(diff(file, host=host, store=store, tracking=tracking))


@schedule_app.command("apply")
def schedule_apply(
    file: ScheduleFile = Path("pipelines/schedules.yaml"),
    host: Host = None,
    store: ClusterStore = None,
    tracking: ClusterTracking = None,
    allow_dirty: AllowDirty = False,
) -> None:
    """Make the cluster's schedules what the file says.

    Exit codes: 0 done, 1 error, 2 usage.
    """
    from pipelines.cli.commands.schedule import apply

    raise typer.Exit(apply(file, host=host, store=store, tracking=tracking, allow_dirty=allow_dirty))


@app.command()
def serve(
    bundle: Annotated[
        str | None, typer.Argument(help="A bundle's folder or s3:// place; the deployed one by default.")
    ] = None,
    port: Annotated[int, typer.Option(help="REST port.")] = 8080,
    grpc_port: Annotated[int, typer.Option(help="gRPC port.")] = 8081,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    output: Output = Path("output"),
) -> None:
    """Serve a model here, by REST and gRPC, until interrupted."""
    from pipelines.cli.commands.serve import serve as command

    command(bundle, output, host, port, grpc_port)


@app.command()
def demo(
    bundle: Annotated[
        str | None, typer.Argument(help="A bundle's folder or s3:// place; the deployed one by default.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="A running predictor to talk to, instead of starting one.")] = None,
    port: Annotated[int, typer.Option(help="Port of the page.", min=0, max=65535)] = 7860,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    output: Output = Path("output"),
) -> None:
    """Serve a page to try a model with, typing or speaking, until interrupted."""
    from pipelines.cli.commands.demo import demo as command

    command(bundle, url, output, host, port)


@app.command()
def predict(
    dialogue: Annotated[Path, typer.Option(help="JSON: a list of utterances with text and, if any, a path to audio.")],
    url: Annotated[str, typer.Option(help="The predictor's address.")] = "http://127.0.0.1:8080",
    model: Annotated[str, typer.Option(help="The model's name.")] = "mistere",
) -> None:
    """Ask a predictor about a dialogue."""
    from pipelines.cli.commands.predict import predict as command

    command(dialogue, url, model)


@app.command()
def train(
    embeddings: Embeddings,
    profile: Profile = "sample",
    settings: Settings = None,
    seeds: Annotated[int, typer.Option(help="How many, from the profile's seed on.", min=1)] = 1,
    ablate: Annotated[
        str | None, typer.Option(help="Parts to do without: gate,contrastive,kl,context,modality_dropout,fusion.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for model, metrics and report.")] = Path("output/train"),
    track: Annotated[str | None, typer.Option(metavar="URI", help="Log each seed to this MLflow server.")] = None,
) -> None:
    """Train and evaluate the mixture on embeddings made elsewhere.

    Exit codes: 0 done, 1 error, 2 usage.
    """
    from pipelines.cli.commands.train import train as command

    parts = [part.strip() for part in ablate.split(",") if part.strip()] if ablate else []
    command(embeddings, profile, settings or [], seeds, parts, output, track)


@app.command()
def tune(
    embeddings: Embeddings,
    profile: Profile = "sample",
    settings: Settings = None,
    trials: Annotated[int, typer.Option(help="Finished trials in all; a rerun goes on to this number.", min=1)] = 40,
    seeds: Annotated[int, typer.Option(help="Trainings a trial; their mean counts.", min=1)] = 1,
    timeout: Annotated[float | None, typer.Option(help="Minutes after which no trial starts.", min=0)] = None,
    output: Annotated[Path, typer.Option(help="Folder for the study and what it found.")] = Path("output/tune"),
) -> None:
    """Find settings of the mixture for given embeddings, on dev only.

    Exit codes: 0 done, 1 error, 2 usage.
    """
    from pipelines.cli.commands.tune import tune as command

    command(embeddings, profile, settings or [], trials, seeds, timeout, output)


ModelReference = Annotated[
    str, typer.Argument(help="MODEL, MODEL@ALIAS, @ALIAS, MODEL/VERSION, a version, or the start of a bundle's digest.")
]
ModelName = Annotated[str, typer.Option("--model", help="The model, where none is named.")]
StorePlace = Annotated[
    str | None, typer.Option("--store", help="A folder or s3://…; MISTERE_STORE, or the output folder's, by default.")
]
Tracking = Annotated[str | None, typer.Option("--tracking", metavar="URI", help="The MLflow server that goes with it.")]
Reason = Annotated[str, typer.Option(help="Why, for the promotion log.")]


@app.command()
def models(
    log: Annotated[bool, typer.Option("--log", help="What happened to the champion instead.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as data.")] = False,
    model: ModelName = "mistere",
    output: Output = Path("output"),
    store: StorePlace = None,
    tracking: Tracking = None,
) -> None:
    """List the registered versions, or the promotion log."""
    from pipelines.cli.commands.models import models as command
    from pipelines.cli.registry_location import registry_location

    command(registry_location(output, store, tracking), model, log=log, as_json=as_json)


@app.command()
def promote(
    version: ModelReference,
    reason: Reason = "",
    model: ModelName = "mistere",
    output: Output = Path("output"),
    store: StorePlace = None,
    tracking: Tracking = None,
) -> None:
    """Make a version the champion and deploy it, after its smoke test."""
    from pipelines.cli.commands.promote import promote as command
    from pipelines.cli.registry_location import registry_location

    command(registry_location(output, store, tracking), version, model, reason)


@app.command()
def rollback(
    reason: Reason = "", output: Output = Path("output"), store: StorePlace = None, tracking: Tracking = None
) -> None:
    """Make the champion before this one the champion again."""
    from pipelines.cli.commands.promote import rollback as command
    from pipelines.cli.registry_location import registry_location

    command(registry_location(output, store, tracking), reason)


@app.command()
def replay(
    version: ModelReference,
    work: Annotated[Path, typer.Option(help="Folder for the second run.")] = Path("output/replay"),
    model: ModelName = "mistere",
    output: Output = Path("output"),
    store: StorePlace = None,
    tracking: Tracking = None,
) -> None:
    """Make a model again from its lineage, and see whether it comes out the same.

    Exit codes: 0 the same, 3 different, 1 error, 2 usage.
    """
    from pipelines.cli.commands.replay import replay as command
    from pipelines.cli.registry_location import registry_location

    raise typer.Exit(command(registry_location(output, store, tracking), version, model, work))


@app.command()
def compare(
    one: ModelReference,
    other: ModelReference,
    page: Annotated[Path, typer.Option(help="The page to write.")] = Path("output/compare.html"),
    model: ModelName = "mistere",
    output: Output = Path("output"),
    store: StorePlace = None,
    tracking: Tracking = None,
) -> None:
    """Compare two versions on one page."""
    from pipelines.cli.commands.compare import compare as command
    from pipelines.cli.registry_location import registry_location

    command(registry_location(output, store, tracking), one, other, model, page)


@app.command()
def doctor(
    host: Annotated[
        str | None, typer.Option(metavar="URL", help="Kubeflow Pipelines; KFP_ENDPOINT, or cluster.host, by default.")
    ] = None,
    profile: Profile = "sample",
    settings: Settings = None,
    store: Annotated[
        str | None, typer.Option(metavar="PLACE", help="s3://…; MISTERE_STORE, or cluster.store, by default.")
    ] = None,
    tracking: Annotated[
        str | None,
        typer.Option(metavar="URI", help="MLflow; MLFLOW_TRACKING_URI, or cluster.tracking_uri, by default."),
    ] = None,
) -> None:
    """Check everything that a run needs, here and on the cluster, and say how to mend what fails.

    Exit codes: 0 nothing needed fails, 1 something does, 2 usage.
    """
    from pipelines.cli.commands.doctor import doctor as command

    raise typer.Exit(command(profile, settings or [], host, store, tracking))


@app.command("gate-table")
def gate_table(
    run_id: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="The run; by default the last one of the commit.")
    ] = None,
    commit: Annotated[str | None, typer.Option(help="Instead of the commit that is checked out.")] = None,
    output: Output = Path("output"),
    store: StorePlace = None,
) -> None:
    """Print how a run ended and what the gate said, as Markdown for a CI job's summary or comment."""
    from pipelines.cli.commands.gate_table import gate_table as command

    command(run_id, commit, output, store)


@app.command(context_settings={"ignore_unknown_options": True})
def bench(
    name: Annotated[str | None, typer.Argument(help="Which one; none lists them.")] = None,
    arguments: Annotated[list[str] | None, typer.Argument(help="Its own arguments and options.")] = None,
) -> None:
    """Run a benchmark of tests/bench/."""
    from pipelines.cli.commands.bench import bench as command

    raise typer.Exit(command(name, arguments or []))


@app.callback()
def options(verbose: Annotated[bool, typer.Option("--verbose", help="Show the trace of an error.")] = False) -> None:
    """Train, judge, release and serve a model of emotions in conversations."""


def main() -> None:
    """Run the command; an error a person can mend is one line, with ``--verbose`` its trace."""
    verbose = "--verbose" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--verbose"]
    try:
        raise SystemExit(app(args=arguments, prog_name="mistere", standalone_mode=False))
    except Exception as error:
        failure = _mendable(error)
        if verbose or failure is None:
            raise
        print(f"mistere: {failure}", file=sys.stderr)
        raise SystemExit(int(failure.exit_code)) from None


def _mendable(error: Exception) -> MistereError | None:
    """The error as one that a person can mend, if it is."""
    if isinstance(error, MistereError):
        return error
    if isinstance(error, OSError):
        return disk_error(error) or MistereError(
            f"{error.filename or 'a file'}: {(error.strerror or str(error)).lower()}."
        )
    if hasattr(error, "format_message"):  # what the command line parser raises for wrong usage
        return UsageError(" ".join(str(error.format_message()).split()))
    return None


if __name__ == "__main__":
    main()
