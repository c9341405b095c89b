"""The commands that run the pipeline, here or on a cluster, and the tools around it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.command_group import command_group
from pipelines.cli.options import ClusterStore, ClusterTracking, Host, Output, Profile, Settings, StoreLocation

pipeline_app = command_group()
schedule_app = command_group("Manage the recurring runs of a cluster.")
tools_app = command_group()


IfDrifted = Annotated[
    bool,
    typer.Option(
        "--if-drifted", help="Run only if the champion's traffic has drifted (`mistere monitor`), once for each drift."
    ),
]


@pipeline_app.command()
def run(
    profile: Profile = "sample",
    data: Annotated[
        str | None,
        typer.Option(
            help="A dataset directory, the .dvc file that tracks one (FILE.dvc@REVISION for an older state), a Git revision "
            "of data.dvc, or a DVC digest."
        ),
    ] = None,
    settings: Settings = None,
    output: Output = Path("output"),
    tracking: Annotated[
        str | None,
        typer.Option(metavar="URI", help="The MLflow server; by default a database in the output directory."),
    ] = None,
    if_drifted: IfDrifted = False,
    quarantine: Annotated[
        bool,
        typer.Option("--quarantine", help="Exclude faulty dialogues, up to a share, instead of rejecting the data."),
    ] = False,
) -> None:
    """Run the whole pipeline on this machine.

    Exit codes: 0 deployed, 3 not promoted by the gate, 4 data rejected, 6 waiting for approval, 1 error, 2 usage.
    """
    from pipelines.cli.commands.run import run as command

    changes = [*(settings or []), *(["validation.quarantine=true"] if quarantine else [])]
    raise typer.Exit(command(profile, data, changes, output, tracking, if_drifted=if_drifted))


@pipeline_app.command("compile")
def compile_(
    profile: Profile = "sample",
    pipeline: Annotated[
        str | None, typer.Option(help="retraining, scoring, monitoring or distillation; by default all.")
    ] = None,
    settings: Settings = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="The file to write; by default pipelines/PIPELINE.yaml in the checkout, and PIPELINE.yaml elsewhere."
        ),
    ] = None,
) -> None:
    """Compile the pipelines to the YAML of Kubeflow Pipelines. With a file to write, one pipeline: retraining, unless named."""
    from pipelines.catalogue import PIPELINES, RETRAINING, find_pipeline
    from pipelines.compile import compile_pipeline, default_output

    named = [find_pipeline(pipeline).name] if pipeline is not None else [RETRAINING.name] if output else [*PIPELINES]
    for name in named:
        file = output or default_output(name)
        compile_pipeline(profile, settings or [], file, name)
        typer.echo(f"wrote {file}")


AllowDirty = Annotated[
    bool, typer.Option("--allow-dirty", help="Accept a working tree with uncommitted changes, for a trial.")
]


@pipeline_app.command()
def submit(
    profile: Profile = "sample",
    data: Annotated[
        str | None,
        typer.Option(help="As for run; its DVC remote must be s3://. A directory is uploaded to the store."),
    ] = None,
    settings: Settings = None,
    host: Host = None,
    store: ClusterStore = None,
    tracking: ClusterTracking = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the run and exit with its outcome.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Start a run even if the same one was submitted before.")
    ] = False,
    allow_dirty: AllowDirty = False,
    if_drifted: IfDrifted = False,
    if_changed: Annotated[
        bool,
        typer.Option("--if-changed", help="Exit with 0 if the same was submitted before and did not fail."),
    ] = False,
    pipeline: Annotated[str, typer.Option(help="retraining, scoring, monitoring or distillation.")] = "retraining",
    resubmit: Annotated[
        int,
        typer.Option(
            min=0,
            max=10,
            metavar="N",
            help="With --wait, start again up to N times a run that failed without a reason of a step.",
        ),
    ] = 0,
) -> None:
    """Start a pipeline on a cluster, unless the same commit, profile and data were submitted before.

    Exit codes: 0 started; with --wait 0 deployed or scored, 3 not promoted by the gate, 4 data rejected, 6 waiting for approval;
    1 error, 2 usage.
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
        if_drifted=if_drifted,
        resubmit=resubmit,
        pipeline=pipeline,
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
    """Make the cluster's schedules match the file.

    Exit codes: 0 done, 1 error, 2 usage.
    """
    from pipelines.cli.commands.schedule import apply

    raise typer.Exit(apply(file, host=host, store=store, tracking=tracking, allow_dirty=allow_dirty))


@tools_app.command()
def doctor(
    host: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Kubeflow Pipelines; KFP_ENDPOINT, or cluster.host, by default."),
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
    pipeline: Annotated[
        str, typer.Option(help="The pipeline to run: retraining, scoring, monitoring or distillation.")
    ] = "retraining",
) -> None:
    """Check everything that a run needs, here and on the cluster, and say how to fix what fails.

    Exit codes: 0 every required check passes, 1 one fails, 2 usage, or a deployment that cannot hold its model.
    """
    from pipelines.cli.commands.doctor import doctor as command

    raise typer.Exit(command(profile, settings or [], host, store, tracking, pipeline))


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@tools_app.command()
def runs(
    limit: Annotated[int, typer.Option(help="Number of runs; 0 for all.", min=0)] = 20,
    as_json: AsJson = False,
    output: Output = Path("output"),
    store: StoreLocation = None,
) -> None:
    """List the runs with their outcome and weighted F1, newest first."""
    from pipelines.cli.commands.run_records.runs import runs as command

    command(output, store, limit, as_json=as_json)


@tools_app.command()
def report(
    run_id: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", help="The run's id, or the start of it; by default the latest run."),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the report in the browser.")] = False,
    as_json: AsJson = False,
    output: Output = Path("output"),
    store: StoreLocation = None,
) -> None:
    """Show the outcome of a run and where its report is."""
    from pipelines.cli.commands.run_records.report import report as command

    command(run_id, output, store, open_page=open_page, as_json=as_json)


@tools_app.command("settings")
def list_settings(
    section: Annotated[
        str | None,
        typer.Argument(
            metavar="[SECTION]",
            help="A section, or a setting such as mixture.epochs; by default the sections are listed.",
        ),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="Also show the values of this profile that differ from the defaults.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the settings with their defaults and meaning."""
    from pipelines.cli.commands.settings import settings as command

    command(section, profile, as_json=as_json)


@tools_app.command("gate-table")
def gate_table(
    run_id: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="The run; by default the latest one of the commit.")
    ] = None,
    commit: Annotated[str | None, typer.Option(help="Instead of the commit that is checked out.")] = None,
    output: Output = Path("output"),
    store: StoreLocation = None,
) -> None:
    """Print the outcome of a run and the gate's verdict as Markdown, for the summary or a comment of a CI job."""
    from pipelines.cli.commands.run_records.gate_table import gate_table as command

    command(run_id, commit, output, store)


@tools_app.command(context_settings={"ignore_unknown_options": True})
def bench(
    name: Annotated[str | None, typer.Argument(help="The benchmark; without a name they are listed.")] = None,
    arguments: Annotated[list[str] | None, typer.Argument(help="Arguments and options of the benchmark.")] = None,
) -> None:
    """Run a benchmark of tests/bench/ (in a checkout)."""
    from pipelines.cli.commands.bench import bench as command

    command(name, arguments or [])
