"""``mistere data import``: a command for each importer, built from its declaration when the group is used."""

from __future__ import annotations

import inspect
from collections.abc import MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.main import get_command

from mistere.common.counting import counted
from pipelines.cli.command_group import CommandGroup

if TYPE_CHECKING:
    from mistere.corpora.import_report import ImportReport
    from mistere.corpora.importer import Importer, ImportOption


class ImporterGroup(CommandGroup):
    """A group whose commands are the discovered importers; they are imported only when the group is used."""

    @property
    def commands(self) -> MutableMapping[str, Any]:
        """The importers' commands by name."""
        if not self._commands:
            from mistere.corpora.importers import importers

            self._commands.update({name: _command(importer) for name, importer in importers().items()})
        return self._commands

    @commands.setter
    def commands(self, commands: MutableMapping[str, Any]) -> None:
        self._commands = commands


def _command(importer: Importer) -> Any:
    """The typer command of an importer: a callback with the signature that its declaration describes."""

    def callback(source: Path, directory: Path, **typed: Any) -> None:
        from pipelines.cli.output.task_progress import task_progress

        with task_progress(f"importing {source}"):
            report = importer.run(source, directory, typed)
        _print_report(directory, report)

    keyword_only = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        _parameter("source", Path, typer.Argument(help=importer.source_help)),
        _parameter("directory", Path, typer.Argument(help="Directory of the new dataset; must not exist.")),
        *(
            _parameter(option.name, _type(option), _typer_option(option), option.default)
            for option in importer.options()
        ),
    ]
    callback.__signature__ = inspect.Signature([p.replace(kind=keyword_only) for p in parameters])  # type: ignore[attr-defined]
    callback.__annotations__ = {p.name: p.annotation for p in parameters}
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(importer.name, help=importer.help)(callback)
    return get_command(app)


def _parameter(name: str, kind: Any, info: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def _type(option: ImportOption) -> Any:
    kind: Any = list[option.type] if option.spec.repeatable else option.type  # type: ignore[name-defined]
    return kind | None if option.default is None else kind


def _typer_option(option: ImportOption) -> Any:
    flag = f"{option.flag}/--no-{option.flag.removeprefix('--')}" if option.default is True else option.flag
    bounds: dict[str, Any] = (
        {"min": option.spec.minimum, "max": option.spec.maximum} if option.type in (int, float) else {}
    )
    return typer.Option(flag, help=option.spec.help, metavar=option.spec.metavar, **bounds)


def _print_report(directory: Path, report: ImportReport) -> None:
    from pipelines.cli.output.console import print_text

    counts = ", ".join(f"{split} {count}" for split, count in report.counts.items())
    print_text(f"{directory}: {counts} utterances in {counted(sum(report.dialogues.values()), 'dialogue')}")
    if report.splits:
        print_text(f"  Splits: {report.splits}")
    for note in report.notes:
        print_text(f"  {note}")
