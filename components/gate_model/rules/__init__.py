"""Gate rules, discovered: each module of this package holds one pure function ``evaluate`` and nothing lists them."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable

from components.gate_model.candidate import Candidate
from mistere.artifacts.manifests import RuleResult

Rule = Callable[[Candidate], RuleResult]


def rules() -> dict[str, Rule]:
    """Every rule by its module's name."""
    return {
        module.name: importlib.import_module(f"{__name__}.{module.name}").evaluate
        for module in pkgutil.iter_modules(__path__)
    }
