"""Gate rules, discovered: each module of this package holds one pure function ``judge`` and nothing lists them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable

from components.core.manifests import RuleResult
from components.gate_model.candidate import Candidate

Rule = Callable[[Candidate], RuleResult]


def rules() -> dict[str, Rule]:
    """Every rule by its module's name."""
    return {
        module.name: importlib.import_module(f"{__name__}.{module.name}").judge
        for module in pkgutil.iter_modules(__path__)
    }
