"""What a converter declares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Converter:
    """A converter of one format.

    Attributes:
        weights: name of the weights file in the package's ``model`` folder, which tells the format.
        convert: called with that file and an existing empty folder; writes a ``transformers`` folder with safetensors weights.
    """

    weights: str
    convert: Callable[[Path, Path], None]
