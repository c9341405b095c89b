"""The importers of ``mistere data import``, one file each, discovered from this package's modules.

A new one is one new file with a function declared by :func:`~mistere.corpora.importer.importer`; nothing else lists it.
"""

from __future__ import annotations

import importlib
import pkgutil

from mistere.corpora.importer import DECLARED, Importer


def importers() -> dict[str, Importer]:
    """Every importer by name, sorted."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return dict(sorted(DECLARED.items()))
