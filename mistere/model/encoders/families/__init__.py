"""Families of encoders, discovered from this package's modules, one file each.

A family loads one kind of backbone, prepares its inputs and reads its hidden states. A new one is one new file with a subclass of
:class:`~mistere.model.encoders.families.family.Family`; nothing else lists it.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any

from mistere.common.errors import UsageError
from mistere.common.suggestions import did_you_mean
from mistere.model.encoders.families.family import Family


@cache
def families() -> dict[str, type[Family]]:
    """Every family by name."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return {cls.name: cls for cls in sorted(_derived(Family), key=lambda cls: cls.name)}


def _derived(base: Any) -> list[type[Family]]:
    """The classes that derive from a family, also those that derive from another family."""
    return [cls for child in base.__subclasses__() for cls in (child, *_derived(child))]


def family_of(model_type: str, kind: str) -> type[Family]:
    """The family that handles a backbone's ``model_type`` for a kind of modality.

    Raises:
        UsageError: no family handles it.
    """
    for cls in families().values():
        if cls.kind == kind and cls.handles(model_type):
            return cls
    known = {name for name, cls in families().items() if cls.kind == kind}
    raise UsageError(f"no {kind} encoder family handles model type {model_type!r}{did_you_mean(model_type, known)}")
