"""What a settings class says about its settings: names, defaults, accepted values and meaning."""

from __future__ import annotations

import difflib
import inspect
import json
import re
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

AFFECTS_RESULTS = False
"""How a setting is described changes no result."""

_UNITS = (
    (r"(^|_)(seconds|timeout|ttl)($|_)", "seconds"),
    (r"_ms$", "ms"),
    (r"_mi?b$", "MiB"),
    (r"_hz$|_rate$", "Hz"),
    (r"_db$", "dB"),
    (r"_dbfs$", "dBFS"),
)


@dataclass(frozen=True)
class SettingInfo:
    """One setting; its texts are Markdown.

    Attributes:
        name: with its sections: ``mixture.learning_rate``.
        default: in words, as ``--set`` takes it.
        accepted: which values it takes, with their bounds.
        unit: of a number; empty without one.
        meaning: a sentence, as the docstring has it.
    """

    name: str
    default: str
    accepted: str
    unit: str
    meaning: str


def settings_of(cls: type[BaseModel], prefix: str) -> Iterator[SettingInfo]:
    """The settings of one section, in the order of the class; nested sections are expanded.

    Args:
        cls: the section.
        prefix: of the settings' names: ``mixture.``.
    """
    meanings = attributes(cls)
    for name, field in cls.model_fields.items():
        nested = models_in(field.annotation)
        if nested and get_origin(field.annotation) not in (dict, list):
            yield from settings_of(nested[0], f"{prefix}{name}.")
            continue
        bounds = _bounds(field)
        yield SettingInfo(
            name=f"{prefix}{name}",
            default=_default(field),
            accepted=f"{_kind(field.annotation)}{f' ({bounds})' if bounds else ''}",
            unit=next((unit for pattern, unit in _UNITS if re.search(pattern, name)), ""),
            meaning=meanings.get(name) or field.description or "",
        )
        if nested:
            key = "STEP" if get_origin(field.annotation) is dict else "[]"
            yield from settings_of(nested[0], f"{prefix}{name}.{key}.")


def names_of(cls: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The names of all settings and sections in a section, with their sections: ``mixture.epochs``, ``speech.lora``."""
    for name, field in cls.model_fields.items():
        yield f"{prefix}{name}"
        for nested in models_in(field.annotation):
            container = get_origin(field.annotation)
            key = "NAME." if container is dict else "[]." if container is list else ""
            yield from names_of(nested, f"{prefix}{name}.{key}")


def full_names(name: str, known: Iterable[str]) -> list[str]:
    """The known names whose last part is that of ``name``; if there is none, those whose last part is the most similar one."""
    last = name.rpartition(".")[2]
    ends: dict[str, list[str]] = {}
    for each in known:
        ends.setdefault(each.rpartition(".")[2], []).append(each)
    similar = [last] if last in ends else difflib.get_close_matches(last, ends, n=1)
    matches = ends[similar[0]] if similar else []
    return sorted(matches, key=lambda each: -difflib.SequenceMatcher(None, name, each).ratio())


def attributes(cls: type) -> dict[str, str]:
    """The ``Attributes`` sections of a class and its bases: meanings by name."""
    meanings: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        text = inspect.cleandoc(base.__doc__ or "")
        if not isinstance(base, type) or "Attributes:" not in text:
            continue
        section = text.split("Attributes:\n", 1)[1]
        for match in re.finditer(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", section, re.MULTILINE):
            meanings[match[1]] = " ".join(match[2].split())
    return meanings


def summary_of(cls: type) -> str:
    """The docstring of a class without its ``Attributes``."""
    return inspect.cleandoc(cls.__doc__ or "").split("\n\nAttributes:")[0]


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The settings classes in an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def _kind(annotation: Any) -> str:
    """What a setting accepts, in words."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(parts[0])
    if origin is Literal:
        return ", ".join("`off`" if part is False else f"`{part}`" for part in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys("none" if part is type(None) else _kind(part) for part in parts))
    if origin in (list, tuple):
        return f"list of {_kind(parts[0])}" if parts else "list"
    if origin is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return {"str": "text", "int": "integer", "float": "number", "bool": "true, false"}.get(
        getattr(annotation, "__name__", ""), str(annotation)
    )


def _bounds(field: FieldInfo) -> str:
    """Bounds of a number, as a range; those of an annotated alternative are included."""
    constraints = list(field.metadata)
    for part in (field.annotation, *get_args(field.annotation)):
        for item in getattr(part, "__metadata__", ()):
            constraints += [item, *getattr(item, "metadata", ())]
    texts = []
    for item in constraints:
        for kind, name, sign in (
            (annotated_types.Ge, "ge", "≥"),
            (annotated_types.Gt, "gt", ">"),
            (annotated_types.Le, "le", "≤"),
            (annotated_types.Lt, "lt", "<"),
        ):
            if isinstance(item, kind):
                value = getattr(item, name)
                texts.append(f"{sign} {'2³²' if value == 2**32 else value}")
    return ", ".join(dict.fromkeys(texts))


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "(required)"
    if isinstance(value, BaseModel):
        return ""
    if value is None:
        return "none"
    if value is False and "off" in _kind(field.annotation):
        return "`off`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str):
        return f"`{value}`" if value else "empty"
    return f"`{json.dumps(value, default=str)}`"
