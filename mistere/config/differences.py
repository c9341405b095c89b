"""The settings that differ from their defaults."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mistere.config.base import Section, SeededSection

AFFECTS_RESULTS = False
"""For records of runs only."""


def changed_settings(section: Section, seed: int = 0) -> dict[str, Any]:
    """The settings of a section or of the whole configuration that differ from their defaults.

    Args:
        section: the section.
        seed: the configuration's seed, which is the default of each section's.

    Returns:
        ``section.key`` → the value as plain data.
    """
    return dict(_changed(section, getattr(section, "seed", seed), ""))


def _changed(section: Section, seed: int, prefix: str) -> Iterator[tuple[str, Any]]:
    plain = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        value, default = getattr(section, name), field.get_default(call_default_factory=True, validated_data={})
        if isinstance(section, SeededSection) and name == "seed":
            default = seed
        if isinstance(value, Section) and (default is None or isinstance(default, Section)):
            yield from _changed(value, seed, f"{prefix}{name}.")
        elif value != default:
            yield f"{prefix}{name}", plain[name]
