"""Prepare decoded images as an image processor of ``transformers`` does, from its ``preprocessor_config.json``.

Resizing and cropping run on the CPU and give 8-bit pixels, a quarter of the memory of floats; :meth:`Preprocessing.normalised`
scales them on the device. torchvision is not needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mistere.common.errors import UsageError
from mistere.common.parsing.documents import read_json

_LARGEST = 1024
"""Pixels of the side of a model's input: more would be a mistake, or an attack on the memory."""
_FILTERS = frozenset(range(6))
"""Pillow's resampling filters; 2 is bilinear, 3 bicubic."""


@dataclass(frozen=True)
class Preprocessing:
    """How the images of one model are prepared.

    Attributes:
        side: height and width of the result, in pixels.
        shortest: the shorter side is resized to this before the middle is cut out; None resizes both sides to ``side``.
        resample: number of Pillow's filter.
        scale: multiplies the pixels (0..255).
        mean: of red, green and blue, subtracted after that.
        std: of red, green and blue, divides the difference.
    """

    side: int
    shortest: int | None
    resample: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def read(cls, directory: Path, side: int, source: str) -> Preprocessing:
        """Read a folder's ``preprocessor_config.json``; without one, images are scaled to −1..1.

        Args:
            directory: the folder.
            side: height and width of the images that the model takes.
            source: names the encoder in errors.

        Raises:
            UsageError: a value is no number of a usable size.
        """
        file = directory / "preprocessor_config.json"
        config: dict[str, Any] = read_json(file) if file.is_file() else {}
        try:
            size = config.get("size", side)
            shortest = size.get("shortest_edge") if isinstance(size, dict) else None
            if isinstance(size, int) and config.get("do_center_crop"):
                shortest = size
            normalise = config.get("do_normalize", True)
            made = cls(
                side,
                None if shortest is None else int(shortest),
                int(config.get("resample", 2)),
                float(config.get("rescale_factor", 1 / 255)) if config.get("do_rescale", True) else 1.0,
                tuple(map(float, config.get("image_mean") or (0.5,) * 3)) if normalise else (0.0,) * 3,
                tuple(map(float, config.get("image_std") or (0.5,) * 3)) if normalise else (1.0,) * 3,
            )
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UsageError(f"encoder {source}: {file} holds a value that is no number; download it again.") from error
        sides = (made.side, made.shortest or made.side)
        numbers = (made.scale, *made.mean, *made.std)
        if (
            not all(0 < each <= _LARGEST for each in sides)
            or sides[1] < sides[0]
            or made.resample not in _FILTERS
            or len(made.mean) != 3
            or len(made.std) != 3
            or not all(map(math.isfinite, numbers))
            or min(made.std) <= 0
        ):
            raise UsageError(
                f"encoder {source}: {file} states a size of the images, a filter, a mean or a standard deviation that cannot be; "
                "choose another encoder."
            )
        return made

    def resized(self, pixels: np.ndarray) -> np.ndarray:
        """An image uint8 ``[H, W, 3]`` as uint8 ``[3, side, side]``."""
        import PIL.Image

        image = PIL.Image.fromarray(pixels)
        if self.shortest is None:
            image = image.resize((self.side, self.side), PIL.Image.Resampling(self.resample))
        else:
            # The middle square is cut out before it is resized, so that an extremely long image costs no more than another.
            width, height = image.size
            edge = min(width, height) * self.side / self.shortest
            left, top = (width - edge) / 2, (height - edge) / 2
            image = image.resize(
                (self.side, self.side),
                PIL.Image.Resampling(self.resample),
                box=(left, top, left + edge, top + edge),
            )
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))

    def normalised(self, pixels: Tensor) -> Tensor:
        """Pixels ``[…, 3, side, side]`` (0..255) as the model takes them, float32."""
        mean = pixels.new_tensor(self.mean, dtype=torch.float32)[:, None, None]
        std = pixels.new_tensor(self.std, dtype=torch.float32)[:, None, None]
        return (pixels.to(torch.float32) * self.scale - mean) / std
