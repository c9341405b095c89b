"""``mistere settings``: lists the settings with defaults and meaning."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Sequence
from typing import Any

from mistere.common.counting import counted
from mistere.common.errors import UsageError
from mistere.common.suggestions import one_of
from mistere.config.description import SettingInfo, full_names, models_in, settings_of, summary_of
from pipelines.cli.output.console import harmless_json
from pipelines.cli.output.tables import output_console
from pipelines.profiles import PIPELINE_CONFIG, load_profile

_WIDEST = 120
_SEED = SettingInfo(
    "seed", "`0`", "integer (≥ 0, < 2³²)", "", "the seed of everything random; a section's own seed takes precedence."
)


def settings(names: str | None, profile: str | None, *, as_json: bool) -> None:
    """Print the sections, or the settings of one.

    Args:
        names: a section, a setting, or the start of settings' names; None for the list of sections.
        profile: also print this profile's values where they differ from the defaults.
        as_json: print JSON.

    Raises:
        UsageError: there is no such section or setting, or no such profile.
    """
    sections = all_settings()
    values = _changed(profile, [setting for infos in sections.values() for setting in infos]) if profile else {}
    chosen = [setting for infos in sections.values() for setting in infos if names is None or _matches(setting, names)]
    if not chosen:
        known = [*sections, *(setting.name for infos in sections.values() for setting in infos)]
        raise UsageError(f"there is no section or setting {names!r}{_suggestion(str(names), known, sections)}")
    if as_json:
        print(
            harmless_json(json.dumps([_as_json(setting, values) for setting in chosen], indent=1, ensure_ascii=False))
        )
        return
    console = output_console()
    lines = _entries(chosen, values, min(console.width, _WIDEST)) if names else _overview(sections, values)
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)


def all_settings() -> dict[str, list[SettingInfo]]:
    """Section → its settings; the seed of all sections comes first."""
    described = {"seed": [_SEED]}
    for name, field in PIPELINE_CONFIG.model_fields.items():
        for section in models_in(field.annotation):
            described[name] = list(settings_of(section, f"{name}."))
    return described


def _matches(setting: SettingInfo, names: str) -> bool:
    return setting.name == names or setting.name.startswith(f"{names.rstrip('.')}.")


def _suggestion(names: str, known: Sequence[str], sections: dict[str, list[SettingInfo]]) -> str:
    similar = full_names(names, known)
    return f"; did you mean {one_of(similar[:3])}?" if similar else f"; the sections are {', '.join(sections)}."


def _changed(profile: str, settings: Sequence[SettingInfo]) -> dict[str, Any]:
    """The values of a profile that differ from the defaults, by the setting's name."""
    given, defaults = load_profile(profile).model_dump(mode="json"), PIPELINE_CONFIG().model_dump(mode="json")
    values = {}
    for setting in settings:
        value = _value(given, setting.name)
        if value != _value(defaults, setting.name):
            values[setting.name] = value
    return values


def _value(values: Any, name: str) -> Any:
    for part in name.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def _as_json(setting: SettingInfo, values: dict[str, Any]) -> dict[str, Any]:
    plain = {
        "name": setting.name,
        "default": _plain(setting.default),
        "accepted": _plain(setting.accepted),
        "unit": setting.unit,
        "meaning": _plain(setting.meaning),
    }
    return plain | ({"profile": values[setting.name]} if setting.name in values else {})


def _overview(sections: dict[str, list[SettingInfo]], values: dict[str, Any]) -> list[str]:
    lines = []
    for name, infos in sections.items():
        fields = PIPELINE_CONFIG.model_fields
        kind = next(iter(models_in(fields[name].annotation)), None)
        summary = _plain(summary_of(kind).split("\n\n")[0]) if kind else _sentence(_SEED.meaning)
        lines.append(f"{name:<12} {counted(len(infos), 'setting'):>12}  {summary}")
    if values:
        lines += [
            "",
            *(f"{name}: {json.dumps(value, ensure_ascii=False)} in this profile" for name, value in values.items()),
        ]
    return [
        *lines,
        "",
        "`mistere settings SECTION` lists a section, and `mistere run --set SECTION.NAME=VALUE` changes a setting.",
    ]


def _entries(settings: Sequence[SettingInfo], values: dict[str, Any], width: int) -> list[str]:
    lines = []
    for setting in settings:
        unit = f", {setting.unit}" if setting.unit else ""
        lines.append(f"{setting.name} = {_plain(setting.default) or 'none'}")
        if setting.name in values:
            lines.append(f"    in this profile: {json.dumps(values[setting.name], ensure_ascii=False)}")
        text = f"{_sentence(_plain(setting.meaning))} [{_plain(setting.accepted)}{unit}]"
        lines += textwrap.wrap(text, width, initial_indent="    ", subsequent_indent="    ", break_long_words=False)
    return lines


def _sentence(text: str) -> str:
    """The text with a capital letter, unless it begins with a name."""
    return text if "_" in text.split(":")[0].split(" ")[0] else text[:1].upper() + text[1:]


def _plain(text: str) -> str:
    """Text without the markup of docstrings."""
    return re.sub(r":\w+:`~?([^`]+)`", r"\1", " ".join(text.split())).replace("`", "")
