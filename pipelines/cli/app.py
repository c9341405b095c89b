"""The command ``mistere``. Only what ``--help`` needs is imported here; each command imports its own modules."""

from __future__ import annotations

import sys
from typing import Annotated, NoReturn

import typer

from mistere.common.processes.standard_streams import guard_streams
from pipelines.cli.command_group import HELP_OPTIONS, CommandGroup
from pipelines.cli.data_app import data_app
from pipelines.cli.expected_errors import expected_errors
from pipelines.cli.experiment_app import experiment_app
from pipelines.cli.label_app import label_app, traffic_app
from pipelines.cli.pipeline_app import pipeline_app, schedule_app, tools_app
from pipelines.cli.registry_app import registry_app, shadow_app
from pipelines.cli.serving_app import serving_app

app = typer.Typer(
    cls=CommandGroup,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=HELP_OPTIONS,
)
app.add_typer(pipeline_app)
app.add_typer(schedule_app, name="schedule")
app.add_typer(data_app, name="data")
app.add_typer(experiment_app)
app.add_typer(serving_app)
app.add_typer(label_app, name="label")
app.add_typer(traffic_app, name="traffic")
app.add_typer(registry_app)
app.add_typer(shadow_app, name="shadow")
app.add_typer(tools_app)


def _print_version(wanted: bool) -> None:
    if wanted:
        from pipelines.cli.version import version_text

        typer.echo(version_text())
        raise typer.Exit


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the versions of mistere (with its Git commit), Python and PyTorch.",
        ),
    ] = False,
) -> None:
    """Train, evaluate, release and serve a model of emotions in conversations."""


def main() -> NoReturn:
    """Run the command line. An expected error is printed as one line, and with ``--verbose`` as a traceback.

    Ctrl-C ends every command with exit code 130: typer turns a KeyboardInterrupt into it.
    """
    guard_streams()
    verbose = "--verbose" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--verbose"]
    with expected_errors(verbose=verbose):
        code = app(args=arguments, prog_name="mistere", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a reader that is gone still sets the exit code
        raise SystemExit(code)


if __name__ == "__main__":
    main()
