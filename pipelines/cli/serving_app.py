"""The commands that serve a model and query one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.command_group import command_group
from pipelines.cli.options import OPTIONS_KEY, Output, PredictorCommand, StoreLocation

serving_app = command_group()

Bundle = Annotated[
    str | None,
    typer.Argument(help="Directory or s3:// URI of a bundle; by default the deployed one of the output directory."),
]
Listen = Annotated[str, typer.Option(help="Address to listen on.")]


@serving_app.command(cls=PredictorCommand)
def serve(
    context: typer.Context,
    bundle: Bundle = None,
    port: Annotated[int, typer.Option(help="REST port.", min=1, max=65535)] = 8080,
    grpc_port: Annotated[int, typer.Option(help="gRPC port.", min=1, max=65535)] = 8081,
    host: Listen = "127.0.0.1",
    output: Output = Path("output"),
    onnx: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Serve this exported model instead of a bundle, without PyTorch."),
    ] = None,
    traffic: Annotated[
        bool,
        typer.Option("--traffic", help="Short for --traffic-store bundle, whose statistics `mistere monitor` reads."),
    ] = False,
) -> None:
    """Serve a model on this machine, by REST and gRPC, until interrupted.

    A variable such as MISTERE_PREDICTOR_MAX_UTTERANCES sets an option of the model server that is not given.

    Exit codes: 130 after Ctrl-C, 0 after SIGTERM, 1 error, 2 usage.
    """
    from pipelines.cli.commands.serve import serve as command

    options = context.meta[OPTIONS_KEY]
    raise typer.Exit(command(bundle, output, host, port, grpc_port, options, onnx=onnx, traffic=traffic))


@serving_app.command()
def export(
    target: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write, which must not exist.")],
    model: Annotated[
        str | None,
        typer.Option(help="A registered version (3, @challenger, MODEL/3) or a bundle; by default the champion."),
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantise to 8-bit integers: a quarter of the size; needs --data.")
    ] = False,
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="Let --int8 write a model whose loss no --data measures.")
    ] = False,
    data: Annotated[
        str,
        typer.Option(
            metavar="DATA", help="A dataset with labels to compare weighted F1 on, as `mistere score` takes it."
        ),
    ] = "",
    split: Annotated[
        str, typer.Option(help="The split of the dataset, dev or train; on test, --margin decides nothing.")
    ] = "dev",
    dialogues: Annotated[int, typer.Option(help="Compare on the first dialogues of the split, at most.", min=1)] = 200,
    margin: Annotated[
        float,
        typer.Option(help="Weighted F1 (0 to 1) that the exported model may lose, with 95 % confidence.", min=0, max=1),
    ] = 0.02,
    output: Output = Path("output"),
    store: StoreLocation = None,
    tracking: Annotated[
        str | None, typer.Option(metavar="URI", help="The MLflow server that belongs to the store.")
    ] = None,
) -> None:
    """Write a model as ONNX graphs, checked against it, for small devices and for `mistere serve --onnx`.

    Exit codes: 0 written, 3 it may lose more than --margin, 4 data damaged or without labels, 1 error, 2 usage.
    """
    from pipelines.cli.commands.export import export as command

    measure = {"unchecked": unchecked, "data": data, "split": split, "dialogues": dialogues, "margin": margin}
    raise typer.Exit(command(target, model, output, store, tracking, int8=int8, **measure))  # type: ignore[arg-type]


@serving_app.command()
def demo(
    bundle: Bundle = None,
    url: Annotated[str | None, typer.Option(help="Use this running predictor instead of starting one.")] = None,
    port: Annotated[int, typer.Option(help="Port of the page.", min=0, max=65535)] = 7860,
    host: Listen = "127.0.0.1",
    output: Output = Path("output"),
    public_url: Annotated[
        str, typer.Option(metavar="URL", help="Address of the page behind a proxy, https://demo.example.org.")
    ] = "",
) -> None:
    """Serve a web page to try a model by typing or speaking, until interrupted.

    Exit codes: 130 after Ctrl-C or SIGTERM, 1 error, 2 usage.
    """
    from pipelines.cli.commands.demo import demo as command

    command(bundle, url, output, host, port, public_url)


@serving_app.command()
def predict(
    dialogue: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="JSON: a list of utterances, each with text, a path to audio, or both. It may be the example of a bundle in s3://.",
        ),
    ],
    url: Annotated[str, typer.Option(help="URL of the predictor.")] = "http://127.0.0.1:8080",
    model: Annotated[str, typer.Option(help="Name of the model.")] = "mistere",
    as_json: Annotated[bool, typer.Option("--json", help="Print the predictions as JSON.")] = False,
    transcribe: Annotated[
        bool, typer.Option(help="Let a model that transcribes add the text of utterances with audio and no text.")
    ] = True,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say what decided each label: its modalities, and the other turns.")
    ] = False,
    dialogue_id: Annotated[
        str, typer.Option(metavar="ID", help="Name of the dialogue, the same whenever it is sent again.")
    ] = "",
    consent: Annotated[
        bool,
        typer.Option("--consent", help="The people in it consent that it is kept for labelling; needs --dialogue-id."),
    ] = False,
) -> None:
    """Send a dialogue to a predictor and print its predictions."""
    from pipelines.cli.commands.predict import predict as command

    command(dialogue, url, model, as_json, transcribe, explain, dialogue_id=dialogue_id, consent=consent)


@serving_app.command()
def score(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A dataset directory (labels are not needed), a .dvc file, a Git revision or a DVC digest.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="A registered version (3, @challenger, MODEL/3), a bundle or an exported model; by default the champion."
        ),
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Group the calls by a column of the dataset; may be repeated."),
    ] = None,
    time: Annotated[str, typer.Option(metavar="COLUMN", help="The column with the time of a call, for trends.")] = "",
    min_calls: Annotated[int, typer.Option(help="Do not report groups and periods with fewer calls.", min=2)] = 20,
    fail_undecodable: Annotated[
        bool, typer.Option("--fail-undecodable", help="End at a recording or image that does not decode.")
    ] = False,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8", help="Compute the encoders in 8-bit integers on a CPU: faster on most, a little less exact."
        ),
    ] = False,
    cache: Annotated[
        str, typer.Option(metavar="PLACE", help="Where vectors are kept: store, a directory, s3://…, or off.")
    ] = "store",
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Directory of the results; by default one below scores/ in the output directory."
        ),
    ] = None,
    output: Output = Path("output"),
    store: StoreLocation = None,
    tracking: Annotated[
        str | None, typer.Option(metavar="URI", help="The MLflow server that belongs to the store.")
    ] = None,
) -> None:
    """Score a whole archive of dialogues: tables of turns and of calls, and a page with trends. The same command resumes.

    Exit codes: 0 scored, 4 data empty or damaged, 1 error, 2 usage.
    """
    from pipelines.cli.commands.score import score as command

    settings = {
        "by": by or [],
        "time": time,
        "min_calls": min_calls,
        "undecodable": "fail" if fail_undecodable else "missing",
        "int8": int8,
        "cache": cache,
    }
    command(data, model, settings, output, to, store, tracking)


@serving_app.command()
def robustness(
    data: Annotated[
        str,
        typer.Argument(metavar="DATA", help="A dataset directory, a .dvc file, a Git revision or a DVC digest."),
    ],
    model: Annotated[
        str | None,
        typer.Option(help="A registered version (3, @challenger, MODEL/3) or a bundle; by default the champion."),
    ] = None,
    beside: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The model to compare with, or none; by default the champion."),
    ] = None,
    split: Annotated[str, typer.Option(help="The split: train, dev or test.")] = "test",
    effects: Annotated[
        list[str] | None, typer.Option("--effect", metavar="EFFECT", help="Measure this effect; may be repeated.")
    ] = None,
    dialogues: Annotated[int, typer.Option(help="Measure on the first dialogues of the split, at most.", min=1)] = 40,
    max_loss: Annotated[
        float | None,
        typer.Option(
            help="Exit with 3 if a level is shown to lose more weighted F1 (0 to 1) against the other model.",
            min=0,
            max=1,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the effects and of the intervals.", min=0, max=2**32 - 1)] = 0,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Directory of the results; by default one below robustness/ in the output directory."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    output: Output = Path("output"),
    store: StoreLocation = None,
    tracking: Annotated[
        str | None, typer.Option(metavar="URI", help="The MLflow server that belongs to the store.")
    ] = None,
) -> None:
    """Measure what real calls cost a model: codecs, lost packets, noise, echo, clipping, transcription errors, lost turns.

    Exit codes: 0 measured, 3 a level loses more than --max-loss, 4 data damaged or without labels, 1 error, 2 usage.
    """
    from pipelines.cli.commands.robustness import Request
    from pipelines.cli.commands.robustness import robustness as command

    request = Request(data, split, effects or [], dialogues, seed, max_loss=max_loss)
    raise typer.Exit(command(request, model, beside, output, to, store, tracking, as_json=as_json))


@serving_app.command()
def monitor(
    since: Annotated[
        str, typer.Option(metavar="TIME", help="How far to look back: days or hours, such as 7d or 36h.")
    ] = "7d",
    page: Annotated[
        Path | None, typer.Option(help="The HTML page to write; by default traffic.html in the output directory.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole result as JSON.")] = False,
    output: Output = Path("output"),
    store: StoreLocation = None,
) -> None:
    """Compare the champion's traffic with what it was tested on, and write a page.

    Exit codes: 0 steady or worth watching, 5 drifted, 1 error, 2 usage.
    """
    from pipelines.cli.commands.monitor import monitor as command
    from pipelines.cli.registry_location import store_location

    code = command(store_location(output, store), since, page or output / "traffic.html", as_json=as_json)
    raise typer.Exit(code)
