"""Every limit has one argument, and the documentation names it with its default."""

from __future__ import annotations

import re
from dataclasses import fields, replace

import pytest

from mistere.predictor.settings import Limits, ServerSettings, parse_arguments
from tests.serving.conftest import ROOT

GUIDE = (ROOT / "docs" / "guides" / "serving.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| [^|]+ \| ([\d.]+)(?: MiB| s)? \| `(--[a-z-]+)` \|$", re.MULTILINE)


def test_without_arguments_the_settings_are_the_defaults() -> None:
    assert parse_arguments(["bundle"]) == ServerSettings("bundle")


@pytest.mark.parametrize("field", [each.name for each in fields(Limits)])
def test_an_argument_sets_its_limit_and_nothing_else(field: str) -> None:
    option, default = Limits.options()[field], getattr(Limits(), field)
    given = option.shown(2 * default)
    assert parse_arguments(["bundle", option.name, given]).limits == replace(Limits(), **{field: 2 * default})


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "x", "", "0", "1.5", "1e400"])
@pytest.mark.parametrize("field", [each.name for each in fields(Limits)])
def test_only_finite_numbers_are_limits(field: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    option = Limits.options()[field]
    counted = option.factor == 1 and isinstance(getattr(Limits(), field), int)
    if (value == "0" and option.may_be_zero) or (value == "1.5" and not counted):
        assert getattr(parse_arguments(["bundle", option.name, value]).limits, field) == float(value) * option.factor
        return
    with pytest.raises(SystemExit):
        parse_arguments(["bundle", option.name, value])
    assert f"{option.name}: {value} is not a" in capsys.readouterr().err


def test_the_guide_has_every_limit_with_its_default() -> None:
    rows = {name: value for value, name in ROW.findall(GUIDE)}
    options = {option.name: (field, option) for field, option in Limits.options().items()}
    assert {name: options[name][1].shown(getattr(Limits(), options[name][0])) for name in rows} == rows
    section = GUIDE.partition("## Limits of a request")[2].partition("\n## ")[0]
    in_section = {name for _, name in ROW.findall(section)}
    assert in_section == {name for name, (_, option) in options.items() if option.in_metadata}
    assert [name for name in options if f"`{name}`" not in GUIDE] == []
