"""The commands that work on registered model versions, and the group that compares one with the deployed one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.command_group import command_group
from pipelines.cli.options import Output, Settings, StoreLocation

registry_app = command_group()
shadow_app = command_group("Compare a version with the deployed one on copies of its requests.")

ModelReference = Annotated[
    str, typer.Argument(help="MODEL, MODEL@ALIAS, @ALIAS, MODEL/VERSION, a version, or the start of a bundle's digest.")
]
ModelName = Annotated[str, typer.Option("--model", help="The model, where the reference names none.")]
Tracking = Annotated[
    str | None, typer.Option("--tracking", metavar="URI", help="The MLflow server that belongs to the store.")
]


def _one_line(reason: str) -> str:
    """A reason as the promotion log keeps it."""
    from mistere.common.names import terminal_text

    return terminal_text(" ".join(reason.split()))


OtherInputs = Annotated[
    bool,
    typer.Option(
        "--other-inputs",
        help="Allow a version that does not understand what clients of the deployed one send: vectors instead of texts and recordings, or without a modality.",
    ),
]
Reason = Annotated[str, typer.Option(help="Reason for the promotion log.", callback=_one_line)]


@registry_app.command()
def models(
    log: Annotated[bool, typer.Option("--log", help="Show every promotion and rollback instead.")] = False,
    history: Annotated[
        bool, typer.Option("--history", help="Show the champions with their figures over time instead.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    model: ModelName = "mistere",
    output: Output = Path("output"),
    store: StoreLocation = None,
    tracking: Tracking = None,
) -> None:
    """List the registered versions, the promotion log, or the champions' figures over time."""
    from pipelines.cli.commands.registry.models import models as command
    from pipelines.cli.registry_location import registry_location

    command(registry_location(output, store, tracking), model, log=log, history=history, as_json=as_json)


@registry_app.command()
def register(
    training: Annotated[
        Path, typer.Argument(metavar="DIR", help="The output directory of a finished `mistere train`.")
    ],
    embeddings: Annotated[
        Path | None, typer.Option(help="The training's embeddings; by default where the training read them.")
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(help="Settings of the release gate and the registry; by default the training's profile."),
    ] = None,
    settings: Settings = None,
    output: Output = Path("output"),
    store: StoreLocation = None,
    tracking: Tracking = None,
) -> None:
    """Evaluate a training, and register it as a version of vectors unless the release gate rejects it.

    Exit codes: 0 registered, 3 held or rejected, 6 registered and waiting for approval, 1 error, 2 usage.
    """
    from mistere.common.paths import missing_folders, removed_if_refused
    from pipelines.cli.commands.registry.register import register as command
    from pipelines.cli.registry_location import registry_location

    with removed_if_refused(missing_folders(output.resolve())):
        location = registry_location(output, store, tracking, create=True)
        code = command(training, embeddings, profile, settings or [], location)
    raise typer.Exit(code)


@registry_app.command()
def promote(
    version: ModelReference,
    reason: Reason = "",
    canary: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=99,
            metavar="PERCENT",
            help="Give the version this share of the requests and stop there; needs a Gateway (deployment.gateway).",
        ),
    ] = None,
    other_inputs: OtherInputs = False,
    model: ModelName = "mistere",
    output: Output = Path("output"),
    store: StoreLocation = None,
    tracking: Tracking = None,
) -> None:
    """Make a version the champion and deploy it, after its smoke test."""
    from pipelines.cli.commands.registry.promote import promote as command
    from pipelines.cli.registry_location import registry_location

    command(registry_location(output, store, tracking), version, model, reason, canary, other_inputs=other_inputs)


Decision = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A model of which one version waits, MODEL/VERSION, MODEL@ALIAS, a version, or the start of a bundle's digest.",
    ),
]
Why = Annotated[str, typer.Option("--reason", help="Why you decide so, for the promotion log.", callback=_one_line)]


@registry_app.command()
def approve(
    version: Decision,
    reason: Why,
    other_inputs: OtherInputs = False,
    model: ModelName = "mistere",
    output: Output = Path("output"),
    store: StoreLocation = None,
    tracking: Tracking = None,
) -> None:
    """Release a version that waits for a person: one that the gate held, or any if the profile says so.

    Exit codes: 0 released, 1 error, 2 usage.
    """
    from pipelines.cli.commands.registry.decide import approve as command
    from pipelines.cli.registry_location import registry_location

    command(registry_location(output, store, tracking), version, model, reason, other_inputs=other_inputs)


@registry_app.command()
def reject(
    version: Decision,
    reason: Why,
    model: ModelName = "mistere",
    output: Output = Path("output"),
    store: StoreLocation = None,
    tracking: Tracking = None,
) -> None:
    """Decide that a version is not released.

    Exit codes: 0 rejected, 1 error, 2 usage.
    """
    from pipelines.cli.commands.registry.decide import reject as command
    from pipelines.cli.registry_location import registry_location

    command(registry_location(output, store, tracking), version, model, reason)


@registry_app.command()
def rollback(
    reason: Reason = "",
    unfinished: Annotated[
        bool,
        typer.Option(
            "--unfinished", help="Only take a canary or an interrupted release back; never restore a champion."
        ),
    ] = False,
    service: Annotated[str, typer.Option(help="With --unfinished: the service, if several have one.")] = "",
    output: Output = Path("output"),
    store: StoreLocation = None,
    tracking: Tracking = None,
) -> None:
    """Take a canary or an interrupted release back; without one, restore the previous champion and deploy it."""
    from pipelines.cli.commands.registry.promote import rollback as command
    from pipelines.cli.registry_location import registry_location

    command(registry_location(output, store, tracking), reason, unfinished=unfinished, service=service)


@registry_app.command()
def replay(
    version: ModelReference,
    work: Annotated[Path, typer.Option(help="Directory for the second run.")] = Path("output/replay"),
    model: ModelName = "mistere",
    output: Output = Path("output"),
    store: StoreLocation = None,
    tracking: Tracking = None,
) -> None:
    """Reproduce a model from its lineage and compare the metrics (in a checkout).

    Exit codes: 0 the same, 3 different, 1 error, 2 usage.
    """
    from pipelines.cli.commands.registry.replay import replay as command
    from pipelines.cli.registry_location import registry_location

    raise typer.Exit(command(registry_location(output, store, tracking), version, model, work))


@registry_app.command()
def compare(
    one: ModelReference,
    other: ModelReference,
    page: Annotated[
        Path | None, typer.Option(help="The HTML page to write; by default compare.html in the output directory.")
    ] = None,
    model: ModelName = "mistere",
    output: Output = Path("output"),
    store: StoreLocation = None,
    tracking: Tracking = None,
) -> None:
    """Compare two versions on one HTML page."""
    from pipelines.cli.commands.registry.compare import compare as command
    from pipelines.cli.registry_location import registry_location

    command(registry_location(output, store, tracking), one, other, model, page or output / "compare.html")


@shadow_app.command("start")
def start_shadow(
    version: ModelReference,
    other_inputs: OtherInputs = False,
    model: ModelName = "mistere",
    output: Output = Path("output"),
    store: StoreLocation = None,
    tracking: Tracking = None,
) -> None:
    """Serve a version as the shadow of the deployed one, which copies requests to it.

    Exit codes: 0 started, 1 error, 2 usage.
    """
    from pipelines.cli.commands.shadow.lifecycle import start as command
    from pipelines.cli.registry_location import registry_location

    command(registry_location(output, store, tracking), version, model, other_inputs=other_inputs)


@shadow_app.command("report")
def report_shadow(
    since: Annotated[
        str, typer.Option(metavar="TIME", help="How far to look back: days or hours, such as 7d or 36h.")
    ] = "7d",
    min_agreement: Annotated[float, typer.Option(help="Least share of turns with the same label, from 0 to 1.")] = 0.7,
    max_errors: Annotated[
        float, typer.Option(help="Largest share of copies that end in an error, from 0 to 1.")
    ] = 0.01,
    page: Annotated[
        Path | None, typer.Option(help="The HTML page to write; by default shadow.html in the output directory.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole result as JSON.")] = False,
    output: Output = Path("output"),
    store: StoreLocation = None,
) -> None:
    """Compare the deployed version with its shadow, and write a page.

    Exit codes: 0 alike, 5 different, 6 too little was compared to say, 1 error, 2 usage.
    """
    from pipelines.cli.commands.shadow.report import report as command
    from pipelines.cli.registry_location import store_location

    place = page or output / "shadow.html"
    code = command(store_location(output, store), since, min_agreement, max_errors, place, as_json=as_json)
    raise typer.Exit(code)


@shadow_app.command("promote")
def promote_shadow(
    reason: Reason = "",
    other_inputs: OtherInputs = False,
    output: Output = Path("output"),
    store: StoreLocation = None,
    tracking: Tracking = None,
) -> None:
    """Release the shadow's version in the ordinary way, and remove the shadow.

    Exit codes: 0 released, 1 error, 2 usage.
    """
    from pipelines.cli.commands.shadow.lifecycle import promote_shadow as command
    from pipelines.cli.registry_location import registry_location

    command(registry_location(output, store, tracking), reason, other_inputs=other_inputs)


@shadow_app.command("stop")
def stop_shadow(output: Output = Path("output"), store: StoreLocation = None, tracking: Tracking = None) -> None:
    """Remove the shadow.

    Exit codes: 0 removed, 1 error, 2 usage.
    """
    from pipelines.cli.commands.shadow.lifecycle import stop as command
    from pipelines.cli.registry_location import registry_location

    command(registry_location(output, store, tracking))
