"""The names that a predictor's option has, and its value from the sources that set it: command line, environment, default."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from pydantic import ValidationError

from mistere.common.errors import UsageError
from mistere.common.names import shown
from mistere.common.suggestions import did_you_mean
from mistere.common.urls import redact_url
from mistere.config.description import settings_of
from mistere.config.predictor import NotStated, PredictorConfig

VARIABLE_PREFIX: Final = "MISTERE_PREDICTOR_"
SECTION: Final = "deployment.predictor"
_OF_A_SERVICE: Final = re.compile(r"(^|_)(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_[A-Z]+(_[A-Z]+)?)?)$")
"""Variables that Kubernetes sets in every pod for a service, such as MISTERE_PREDICTOR_PORT for the service mistere-predictor."""


@dataclass(frozen=True)
class Option:
    """An option of the predictor; everything follows from its field in :class:`PredictorConfig`.

    Attributes:
        name: of the field.
        meaning: a sentence without its full stop, as the class's docstring has it.
        accepted: which values it takes, in words.
        default: the default value.
        is_flag: whether its argument takes no value: ``--int8``, ``--no-int8``.
        is_list: whether its argument may be repeated; its variable takes values separated by commas.
        is_stated: whether the model's metadata states it.
    """

    name: str
    meaning: str
    accepted: str
    default: Any
    is_flag: bool
    is_list: bool
    is_stated: bool

    @property
    def argument(self) -> str:
        """Its argument on the command line; that of a list is in the singular."""
        name = re.sub(r"(?<=[sx])es$|s$", "", self.name) if self.is_list else self.name
        return f"--{name.replace('_', '-')}"

    @property
    def negation(self) -> str:
        """The argument that turns a flag off."""
        return f"--no-{self.argument.removeprefix('--')}"

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return f"{VARIABLE_PREFIX}{self.name.upper()}"

    @property
    def setting(self) -> str:
        """Its name in a profile."""
        return f"{SECTION}.{self.name}"

    @property
    def help(self) -> str:
        """What ``--help`` says: the meaning and the default."""
        return f"{self.meaning.replace('`', '')} (default: {as_text(self.default) or 'none'})"

    def arguments(self, value: Any) -> list[str]:
        """The arguments that set a value."""
        if self.is_flag:
            return [self.argument if value else self.negation]
        values = value if self.is_list else [value]
        return [word for each in values for word in (self.argument, as_text(each))]


@cache
def options() -> Mapping[str, Option]:
    """All options by name, in the order of the class."""
    described = {each.name: each for each in settings_of(PredictorConfig, "")}
    return {
        name: Option(
            name=name,
            meaning=described[name].meaning.rstrip("."),
            accepted=described[name].accepted,
            default=field.default,
            is_flag=field.annotation is bool,
            is_list=isinstance(field.default, tuple),
            is_stated=not any(isinstance(each, NotStated) for each in field.metadata),
        )
        for name, field in PredictorConfig.model_fields.items()
    }


def as_text(value: Any) -> str:
    """A value as an argument, a variable or a property of the metadata has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.15g}"
    return ",".join(map(as_text, value)) if isinstance(value, tuple | list) else str(value)


def resolve(arguments: Mapping[str, Any], environment: Mapping[str, str]) -> PredictorConfig:
    """The options of a server. An argument takes precedence over the environment, and that over the default.

    Args:
        arguments: the given values, texts or of the option's type, by option; those not given are left out or None.
        environment: the process's variables; an empty one counts as not set.

    Raises:
        UsageError: a value is wrong, or a variable names no option; one sentence that names the argument or the variable.
    """
    values, origins = {}, {}
    variables = dict(_variables(environment))
    for name, option in options().items():
        if arguments.get(name) is not None:
            values[name], origins[name] = arguments[name], option.argument
        elif text := variables.get(option.variable):
            values[name], origins[name] = _split(text) if option.is_list else text.strip(), option.variable
    try:
        return PredictorConfig.model_validate(values)
    except ValidationError as error:
        raise UsageError(_sentence(error, origins)) from error


def rendered(config: PredictorConfig) -> list[str]:
    """The arguments that set the options which differ from their defaults."""
    return [
        word
        for name, option in options().items()
        if (value := getattr(config, name)) != option.default
        for word in option.arguments(value)
    ]


def stated(config: PredictorConfig) -> dict[str, str]:
    """The options as the model's metadata states them, for example ``option.int8``: ``false``."""
    return {f"option.{name}": as_text(getattr(config, name)) for name, each in options().items() if each.is_stated}


def check_variables(variables: Mapping[str, object]) -> None:
    """Check the predictor's variables of a pod before they are deployed.

    Args:
        variables: the pod's variables; values that are no text are kept in a secret or ConfigMap, and not known here.

    Raises:
        ValueError: a variable names no option, or its value is wrong.
    """
    texts = {name: value if isinstance(value, str) else "" for name, value in variables.items()}
    try:
        resolve({}, texts)
    except UsageError as error:
        raise ValueError(str(error).removesuffix(".")) from error


def with_variables(config: PredictorConfig, variables: Mapping[str, object]) -> PredictorConfig:
    """The options of a pod: settings that differ from their defaults, and its variables for the others, as the predictor resolves them.

    Args:
        config: the settings.
        variables: the pod's variables; values that are no text are not known here.

    Raises:
        ValueError: as :func:`check_variables`, or the options do not fit together.
    """
    texts = {name: value for name, value in variables.items() if isinstance(value, str)}
    given = {name: value for name, option in options().items() if (value := getattr(config, name)) != option.default}
    try:
        return resolve(given, texts)
    except UsageError as error:
        raise ValueError(str(error).removesuffix(".")) from error


def is_option(variable: str) -> bool:
    """Whether an environment variable sets an option."""
    return any(option.variable == variable for option in options().values())


def _variables(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The predictor's own variables.

    Raises:
        UsageError: a variable names no option.
    """
    known = [option.variable for option in options().values()]
    for name, value in environment.items():
        if not name.startswith(VARIABLE_PREFIX):
            continue
        if name in known:
            yield name, value
        elif not _OF_A_SERVICE.search(name.removeprefix(VARIABLE_PREFIX)):
            raise UsageError(f"{name} is no option of the predictor{did_you_mean(name, known)}")


def _split(text: str) -> Sequence[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _sentence(error: ValidationError, origins: Mapping[str, str]) -> str:
    """The first error, with the argument or variable that the value comes from."""
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    reason = first["msg"].removeprefix("Value error, ")
    if name not in origins:  # options that do not fit together
        return f"{', '.join(origins.values())}: {reason}."
    option = options()[name]
    expected = f"it takes {option.accepted}" if first["type"] != "value_error" else reason
    return f"{origins[name]}: {redact_url(shown(first['input']))} is not accepted: {expected.replace('`', '')}."
