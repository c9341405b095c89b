"""Gate rules, discovered: each module of this package has its rules in ``RULES``, and nothing lists the modules."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from components.gate_model.rule import Rule
from mistere.common.errors import MistereError


def rules() -> dict[str, Rule[Any]]:
    """Every rule by its name, in alphabetical order.

    Raises:
        MistereError: two rules have one name.
    """
    by_name: dict[str, Rule[Any]] = {}
    for module in pkgutil.iter_modules(__path__):
        for rule in importlib.import_module(f"{__name__}.{module.name}").RULES:
            if by_name.setdefault(rule.name, rule) is not rule:
                raise MistereError(
                    f"two gate rules are named {rule.name!r}, one in rules/{module.name}.py: rename one."
                )
    return dict(sorted(by_name.items()))
