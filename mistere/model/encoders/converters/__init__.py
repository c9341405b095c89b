"""Converters of packaged weights in other formats than safetensors, discovered from this package's modules, one file each.

``package:`` sources are ``transformers`` folders. A package in another format is converted to such a folder if a module here
declares a ``CONVERTER`` for the name of its weights file. The only one, CTranslate2's, exists for the profile ``sample``: no
Whisper is on the Python package index in another format. No default setting of the library needs a converter.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from mistere.model.encoders.converters.converter import Converter


@cache
def converters() -> dict[str, Converter]:
    """Every converter by the name of the weights file that it reads."""
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    found = [module.CONVERTER for module in modules if hasattr(module, "CONVERTER")]
    return {converter.weights: converter for converter in sorted(found, key=lambda converter: converter.weights)}
