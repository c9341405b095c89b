"""Expectations of a dataset, discovered: each module of this package has its own in ``EXPECTATIONS``."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any

from components.validate_data.dataset import Dataset
from components.validate_data.expectation import LAYERS, Expectation, Rule
from mistere.common.errors import MistereError
from mistere.config.validation import ValidationSettings


@cache
def expectations() -> tuple[Expectation[Any], ...]:
    """Every expectation, in the order of the report.

    Raises:
        MistereError: two expectations have one name.
    """
    by_name: dict[str, Expectation[Any]] = {}
    for module in pkgutil.iter_modules(__path__):
        for expectation in importlib.import_module(f"{__name__}.{module.name}").EXPECTATIONS:
            if by_name.setdefault(expectation.name, expectation) is not expectation:
                raise MistereError(
                    f"two expectations are named {expectation.name!r}, one in expectations/{module.name}.py: rename one."
                )
    return tuple(sorted(by_name.values(), key=lambda expectation: LAYERS.index(expectation.layer)))


def rules(dataset: Dataset, config: ValidationSettings) -> list[Rule]:
    """Every expectation that is not off, for one dataset under one configuration."""
    resolved = [one.resolve(dataset, config) for one in expectations()]
    return [rule for rule in resolved if rule.severity != "off"]
