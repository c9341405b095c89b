"""One section of the configuration from settings that several modules declare, each its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import create_model

from mistere.common.errors import MistereError
from mistere.config.base import Section

S = TypeVar("S", bound=Section)


def select(section: Section, part: type[S]) -> S:
    """The settings of one part of a combined section."""
    return part.model_validate({name: getattr(section, name) for name in part.model_fields})


def combine(name: str, base: type[S], parts: Mapping[str, type[S]], summary: str) -> type[S]:
    """A section with the settings of ``base`` and of all parts.

    Every setting has its meaning as the field's ``description``, and in the docstring's ``Attributes``.

    Args:
        name: the new class's name.
        base: the settings that all parts share.
        parts: subclasses of ``base`` by the name of what declares them.
        summary: the first line of the new class's docstring.

    Raises:
        MistereError: two parts declare one setting.
    """
    owners: dict[str, tuple[str, type[S]]] = {}
    for owner, part in parts.items():
        for setting in part.model_fields.keys() - base.model_fields.keys():
            first, declared = owners.setdefault(setting, (owner, part))
            if declared is not part:
                raise MistereError(f"{first} and {owner} both declare the setting {setting!r}: rename one of them.")
    own = [part for part in dict.fromkeys(parts.values()) if part is not base]
    bases = tuple(reversed(own)) or (base,)  # pydantic lists the fields of the last base first
    section = create_model(name, __base__=bases)
    attributes = [f"    {key}: {field.description or ''}" for key, field in section.model_fields.items()]
    section.__doc__ = "\n".join([summary, "", "Attributes:", *attributes])
    return section
