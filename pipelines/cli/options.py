"""Options that several commands take."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any, Final, cast

import typer
from typer.core import TyperCommand
from typer.main import get_command

Profile = Annotated[
    str, typer.Option(help="Base settings: the name of a file in pipelines/profiles, or a path to a YAML file.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one setting; may be repeated.")
]
Output = Annotated[Path, typer.Option(help="Directory of the store, the registry and the runs' reports.")]
StoreLocation = Annotated[
    str | None,
    typer.Option("--store", help="A directory or s3://…; by default MISTERE_STORE, or the output directory's store."),
]

Host = Annotated[
    str | None, typer.Option(metavar="URL", help="Kubeflow Pipelines; KFP_ENDPOINT, or cluster.host, by default.")
]
ClusterStore = Annotated[
    str | None,
    typer.Option("--store", metavar="S3", help="s3://bucket/prefix; MISTERE_STORE, or cluster.store, by default."),
]
ClusterTracking = Annotated[
    str | None,
    typer.Option("--tracking", metavar="URI", help="MLflow; MLFLOW_TRACKING_URI, or cluster.tracking_uri, by default."),
]

OPTIONS_KEY: Final = "predictor options"
"""Where a context holds the given options of the predictor: values by name."""


class PredictorCommand(TyperCommand):
    """A command that takes the predictor's options beside its own; they are read from their class when the command is used.

    Its callback finds the given ones in its context's ``meta``, below :data:`OPTIONS_KEY`.
    """

    _own: list[Any]
    _is_complete: bool

    @property
    def params(self) -> list[Any]:
        """The command's own parameters, and one for each option of the predictor."""
        if not self._is_complete:
            self._own.extend(_predictor_parameters())
            self._is_complete = True
        return self._own

    @params.setter
    def params(self, params: list[Any]) -> None:
        self._own, self._is_complete = list(params), False

    def invoke(self, ctx: Any) -> Any:
        """Call the callback with the command's own values."""
        from mistere.config.predictor_options import options

        given = {name: ctx.params.pop(name) for name in options()}
        ctx.meta[OPTIONS_KEY] = {
            name: value for name, value in given.items() if value is not None and value not in ([], ())
        }
        return super().invoke(ctx)


def _predictor_parameters() -> list[Any]:
    """Parameters that a function with a keyword for each option would have."""
    from mistere.config.predictor_options import options

    def callback(**_: Any) -> None: ...

    parameters = []
    for name, option in options().items():
        flag = f"{option.argument}/{option.negation}" if option.is_flag else option.argument
        kind: Any = bool | None if option.is_flag else list[str] | None if option.is_list else str | None
        info = typer.Option(
            flag, help=f"{option.help[0].upper()}{option.help[1:]}.", metavar=None if option.is_flag else "VALUE"
        )
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, info])
        )
    callback.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    callback.__annotations__ = {each.name: each.annotation for each in parameters}
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(callback)
    return list(cast(Any, get_command(app)).params)
