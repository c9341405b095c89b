"""The size of a checkpoint's weights by their names and types, without reading their values."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

AFFECTS_RESULTS = False
"""An estimate before a run; no step reads it."""

_BYTES: Final = {"F64": 8, "I64": 8, "U64": 8, "F16": 2, "BF16": 2, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1}
"""Bytes of a value by its type in safetensors; 4 for others, and 1 for the 8-bit floats."""
_WHOLE: Final = "model.safetensors"


@dataclass(frozen=True)
class StoredWeight:
    """A tensor of a safetensors file, or several of one type.

    Attributes:
        name: empty if it is not known.
        type: as safetensors names it, such as ``BF16``.
        count: number of its values.
    """

    name: str
    type: str
    count: int

    @property
    def stored(self) -> int:
        """Its bytes in the file."""
        return self.count * (1 if self.type.startswith("F8") else _BYTES.get(self.type, 4))

    @property
    def float32(self) -> int:
        """Its bytes in memory in float32; integers keep their type."""
        return 4 * self.count if self.type.startswith(("F", "BF")) else self.stored


@dataclass(frozen=True)
class BaseWeights:
    """What a family keeps of a checkpoint's weights in its base.

    Attributes:
        names: regular expression on the names of the tensors that it keeps; empty for whole files.
        float32: whether the base is written in float32, whatever the checkpoint's type.
    """

    names: str = ""
    float32: bool = False


@dataclass(frozen=True)
class WeightSize:
    """The weights of an encoder's base.

    Attributes:
        stored: bytes of its files.
        float32: bytes in memory in float32.
    """

    stored: int
    float32: int


def size_of(weights: Iterable[StoredWeight], kept: BaseWeights) -> WeightSize:
    """Add up the weights that a family keeps."""
    chosen = [weight for weight in weights if re.search(kept.names, weight.name)]
    in_float32 = sum(weight.float32 for weight in chosen)
    return WeightSize(in_float32 if kept.float32 else sum(weight.stored for weight in chosen), in_float32)


def read_names(names: Iterable[str], kept: BaseWeights) -> list[str]:
    """The files of weights that a base is made from.

    A family that keeps a part loads ``model.safetensors`` as ``transformers`` does, which prefers it to other files; whole files are
    all copied.
    """
    files = sorted(name for name in names if name.endswith(".safetensors") and "/" not in name)
    return [_WHOLE] if kept.names and _WHOLE in files else files


def stored_weights(file: Path) -> list[StoredWeight]:
    """The tensors of a safetensors file on this machine, from its header.

    Raises:
        ValueError: the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as opened:
            tensors = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118  (not a mapping)
            return [StoredWeight(name, one.get_dtype(), math.prod(one.get_shape())) for name, one in tensors.items()]
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged ({error})") from error
