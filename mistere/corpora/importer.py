"""How an importer declares itself: its name, its help and its options, in its own file.

An importer is a function in a module of :mod:`mistere.corpora.importers`. Its first two parameters are the source and the
directory of the new dataset; each keyword-only parameter is an option of ``mistere data import NAME``::

    @importer("subtitles", help="Subtitles: one file for each dialogue.")
    def import_subtitles(
        source: Path,
        directory: Path,
        *,
        language: Annotated[str, Option("Language of the transcripts, a tag such as en.")] = "en",
    ) -> ImportReport: ...
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mistere.common.errors import UsageError
from mistere.corpora.import_report import ImportReport
from mistere.data.croissant import CardFacts, write_data_card

_SIMPLE = (str, int, float, bool, Path)


ImportFunction = TypeVar("ImportFunction", bound=Callable[..., ImportReport])


@dataclass(frozen=True, slots=True)
class Option:
    """What the type and the default of a parameter do not say about its option.

    Attributes:
        help: one sentence.
        flag: the option's name on the command line; by default ``--`` and the parameter's name with hyphens.
        metavar: placeholder of the value in the help.
        minimum: lowest number allowed.
        maximum: highest number allowed.
        repeatable: whether the option may be given several times.
        parse: converts what is typed (a string; a list of strings if ``repeatable``) to the parameter's value, for a parameter
            that is neither a string, number, flag, path nor a ``Literal`` of these; raises :class:`UsageError`.
        typed_default: the parameter's default as one would type it, if ``parse`` is set.
    """

    help: str
    flag: str = ""
    metavar: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    repeatable: bool = False
    parse: Callable[[Any], Any] | None = None
    typed_default: str = ""


TextOnly = Annotated[bool, Option("Leave audio out.")]
"""The option ``--text-only``, which every corpus with audio should have."""


@dataclass(frozen=True, slots=True)
class ImportOption:
    """An option as a command needs it.

    Attributes:
        name: the parameter's name.
        flag: its name on the command line.
        type: type of one typed value: ``str``, ``int``, ``float``, ``bool`` or ``Path``.
        default: value if the option is not given; None for none.
        choices: the values allowed; empty for any.
        spec: help, bounds and parsing.
    """

    name: str
    flag: str
    type: type
    default: Any
    choices: tuple[Any, ...]
    spec: Option

    def value(self, typed: Any) -> Any:
        """The parameter's value for what was typed.

        Raises:
            UsageError: it is not among the choices, or cannot be parsed.
        """
        if self.choices and typed not in self.choices:
            raise UsageError(f"{self.flag} {typed}: choose {' or '.join(map(str, self.choices))}.")
        return self.spec.parse(typed) if self.spec.parse is not None else typed


@dataclass(frozen=True, slots=True)
class Importer:
    """A declared importer.

    Attributes:
        name: the command, as in ``mistere data import NAME``.
        help: one sentence.
        source_help: what the source is.
        function: does the work.
    """

    name: str
    help: str
    source_help: str
    function: Callable[..., ImportReport]

    def options(self) -> list[ImportOption]:
        """Its options, in the order of the function's keyword-only parameters."""
        hints = get_type_hints(self.function, include_extras=True)
        parameters = list(inspect.signature(self.function).parameters.values())[2:]
        return [_option(self.name, parameter, hints[parameter.name]) for parameter in parameters]

    def run(self, source: Path, directory: Path, typed: dict[str, Any]) -> ImportReport:
        """Import with what was typed for each option, by parameter name, and write the data card beside ``dataset.yaml``.

        Raises:
            UsageError: a value is not among the choices, or cannot be parsed.
            MistereError: as the importer itself.
        """
        values = {option.name: option.value(typed[option.name]) for option in self.options()}
        report = self.function(source, directory, **values)
        write_data_card(CardFacts.of_folder(directory), directory)
        return report


DECLARED: dict[str, Importer] = {}
"""The importers of the modules imported so far; :func:`mistere.corpora.importers.importers` imports all of them."""


def importer(
    name: str, *, help: str, source: str = "The release, as it lies on disk."
) -> Callable[[ImportFunction], ImportFunction]:
    """Declare a function as the importer ``name``.

    Args:
        name: the command, as in ``mistere data import NAME``.
        help: one sentence for the help of the command.
        source: what the source is, for the help of its argument.
    """

    def declare(function: ImportFunction) -> ImportFunction:
        earlier = DECLARED.get(name)
        if earlier is not None and earlier.function.__module__ != function.__module__:
            raise ValueError(
                f"{function.__module__} declares the importer {name}, which {earlier.function.__module__} declares too: "
                "rename one."
            )
        DECLARED[name] = Importer(name, help, source, function)
        return function

    return declare


def _option(importer_name: str, parameter: inspect.Parameter, hint: Any) -> ImportOption:
    arguments = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    spec = next((extra for extra in arguments[1:] if isinstance(extra, Option)), None)
    where = f"importer {importer_name}: parameter {parameter.name}"
    if spec is None or parameter.kind is not inspect.Parameter.KEYWORD_ONLY or parameter.default is parameter.empty:
        raise TypeError(f"{where} must be keyword-only, have a default and the type Annotated[…, Option(…)].")
    flag = spec.flag or "--" + parameter.name.replace("_", "-")
    if spec.parse is not None:
        default = [] if spec.repeatable else spec.typed_default
        return ImportOption(parameter.name, flag, str, default, (), spec)
    kind = _without_none(arguments[0])
    choices = get_args(kind) if get_origin(kind) is Literal else ()
    kind = type(choices[0]) if choices else kind
    if kind not in _SIMPLE:
        raise TypeError(f"{where} has the type {kind}: set `parse` in its Option, which makes it from a string.")
    return ImportOption(parameter.name, flag, kind, parameter.default, choices, spec)


def _without_none(hint: Any) -> Any:
    """``X`` of ``X | None``; anything else unchanged."""
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        return kinds[0] if len(kinds) == 1 else hint
    return hint
