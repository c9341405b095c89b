"""Groups of commands with a complete help text: ``-h``, and descriptions that are wrapped instead of cut."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}
"""Inherited by every command below a group that has it."""


class CommandGroup(TyperGroup):
    """A group that without a command shows its help, in which the first paragraph of each command's text is complete.

    Click cuts these texts to one line; an option or a word that is cut off cannot be looked up anywhere else.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; without any, print the help and exit with 0."""
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands."""
        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        rows = [
            (name, _first_paragraph(command)) for name, command in commands.items() if command and not command.hidden
        ]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


def command_group(help_text: str = "", cls: type[CommandGroup] = CommandGroup) -> typer.Typer:
    """A typer application for a group of commands, with plain help texts.

    Args:
        help_text: description of the group; empty for a group whose commands join those of the group above.
        cls: the group's class.
    """
    return typer.Typer(
        cls=cls,
        help=help_text,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings=HELP_OPTIONS,
    )


def _first_paragraph(command: Any) -> str:
    text = str(command.short_help or command.help or "")
    return " ".join(text.strip().split("\n\n", 1)[0].split())
