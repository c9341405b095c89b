"""Kinds of modalities, discovered from this package's modules, one file each.

A kind knows how the values of a modality are stored, checked, read by an encoder, degraded, and sent to the endpoint. A new one is
one new file with a subclass of :class:`~mistere.data.kinds.kind.Kind`; nothing else lists it.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from mistere.common.errors import UsageError
from mistere.common.suggestions import did_you_mean
from mistere.data.kinds.kind import Kind


@cache
def kinds() -> dict[str, Kind]:
    """Every kind by name, sorted."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return {cls.name: cls() for cls in sorted(Kind.__subclasses__(), key=lambda cls: cls.name)}


def kind_of(name: str) -> Kind:
    """The kind of this name.

    Raises:
        UsageError: there is none.
    """
    known = kinds()
    if name not in known:
        raise UsageError(f"there is no kind of modality {name!r}{did_you_mean(name, known)}")
    return known[name]
