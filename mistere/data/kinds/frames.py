"""Frames of an utterance: JPEG or PNG images in the order of time, such as crops of the speaker's face."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mistere.data.kinds.kind import Degradation, Kind, UnreadableError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from PIL.Image import Image

    from mistere.config.encoder import EncoderConfig

MAX_FRAMES = 64
MAX_FRAME_BYTES = 8 << 20
MAX_FRAME_PIXELS = 3840 * 2160
"""25 MB decoded; a small file can claim to be larger (a decompression bomb)."""
TOKENS_PER_FRAME = 197
"""Positions of an image of 224 · 224 pixels in patches of 16 · 16."""
_FORMATS = ("JPEG", "PNG")


def open_frame(data: bytes, index: int = 0) -> Image:
    """Open an image by its header; its pixels are not decoded.

    Args:
        data: the encoded image.
        index: its number in the utterance, for errors.

    Raises:
        UnreadableError: it is no JPEG or PNG image, or too large.
    """
    import PIL.Image
    from PIL.Image import DecompressionBombError

    if len(data) > MAX_FRAME_BYTES:
        raise UnreadableError(f"Frame {index} has {len(data)} bytes; at most {MAX_FRAME_BYTES} are read.")
    try:
        image = PIL.Image.open(io.BytesIO(data), formats=_FORMATS)
    except DecompressionBombError as error:
        raise UnreadableError(
            f"Frame {index} has more than {MAX_FRAME_PIXELS} pixels: scale the image down."
        ) from error
    except _failures() as error:
        raise UnreadableError(f"Frame {index} is no JPEG or PNG image ({len(data)} bytes).") from error
    width, height = image.size
    if width * height > MAX_FRAME_PIXELS or not width * height:
        raise UnreadableError(
            f"Frame {index} has {width} x {height} pixels; at most {MAX_FRAME_PIXELS} are read: scale the image down."
        )
    return image


def decode_frame(data: bytes, index: int = 0) -> np.ndarray:
    """The pixels uint8 ``[H, W, 3]`` (red, green, blue) of an image; an alpha channel is dropped.

    Raises:
        UnreadableError: it is no JPEG or PNG image, damaged, or too large.
    """
    import numpy as np

    image = open_frame(data, index)
    try:
        return np.asarray(image.convert("RGB"))
    except _failures() as error:
        raise UnreadableError(f"Frame {index} does not decode; it is damaged or cut off.") from error


def _failures() -> tuple[type[Exception], ...]:
    """What Pillow raises for damaged images and for decompression bombs."""
    from PIL.Image import DecompressionBombError

    return (
        OSError, SyntaxError, ValueError, ArithmeticError, LookupError, TypeError, MemoryError, struct.error, zlib.error,
        DecompressionBombError,
    )  # fmt: skip


def encode_frame(pixels: np.ndarray) -> bytes:
    """Pixels uint8 ``[H, W, 3]`` as PNG, without loss."""
    import PIL.Image

    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def spread(count: int, most: int) -> list[int]:
    """The indices of at most ``most`` of ``count`` frames, evenly spread over the utterance, the first and the last included."""
    if count <= most:
        return list(range(count))
    return [round(index * (count - 1) / max(1, most - 1)) for index in range(most)]


def _each_frame(words: str, change: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> Degradation:
    def degrade(frames: Sequence[bytes], draw: np.random.Generator) -> Sequence[bytes]:
        try:
            return tuple(encode_frame(change(decode_frame(frame), draw)) for frame in frames)
        except UnreadableError:
            return frames

    return Degradation(words, degrade)


def blurred(pixels: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """The image under a Gaussian blur with a radius of a fiftieth of its shorter side, at least one pixel."""
    import numpy as np
    import PIL.Image
    from PIL import ImageFilter

    radius = max(1.0, min(pixels.shape[:2]) / 50)
    return np.asarray(PIL.Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def grainy(pixels: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """The image with white noise with a standard deviation of a tenth of full scale."""
    import numpy as np

    return (pixels + draw.normal(0.0, 25.5, pixels.shape)).clip(0, 255).astype(np.uint8)


def darkened(pixels: np.ndarray, _: np.random.Generator) -> np.ndarray:
    """The image at a quarter of its brightness."""
    return pixels // 4


class Frames(Kind):
    """A tuple of encoded images, in the order of time."""

    name = "frames"
    stored_as = "a list of JPEG or PNG files (binary)"
    limits = {  # noqa: RUF012
        "frames": MAX_FRAMES,
        "frame_bytes": MAX_FRAME_BYTES,
        "frame_pixels": MAX_FRAME_PIXELS,
    }
    rows_per_window = 32
    size_setting = "max_frames"
    several = True
    degradations = {  # noqa: RUF012
        "blur": _each_frame("blurred images", blurred),
        "grain": _each_frame("noise in the images", grainy),
        "dark": _each_frame("images at a quarter of their brightness", darkened),
        "fewer_frames": Degradation("every second image lost", lambda frames, _: tuple(frames[::2])),
    }

    def leaf(self, modality: str) -> str:
        return f"{modality}.list.element"

    def arrow_type(self) -> pa.DataType:
        import pyarrow as pa

        return pa.list_(pa.binary())

    def fits(self, column_type: pa.DataType) -> bool:
        from pyarrow import types

        if not (types.is_list(column_type) or types.is_large_list(column_type)):
            return False
        inner = column_type.value_type
        return bool(types.is_binary(inner) or types.is_large_binary(inner) or types.is_null(inner))

    def read(self, column: pa.Array) -> list[Any]:
        return [tuple(filter(None, frames or ())) or None for frames in column.to_pylist()]

    def write(self, cell: Sequence[bytes]) -> list[bytes]:
        return list(cell)

    def content(self, cell: Sequence[bytes], context: Sequence[str] = ()) -> Iterable[bytes]:
        return cell

    def made_up(self, turn: int, width: int | None = None) -> tuple[bytes, ...]:
        """A picture of a colour that fades from left to right."""
        import numpy as np

        pixels = np.zeros((64, 64, 3), np.uint8)
        pixels[..., turn % 3] = np.linspace(0, 255, 64, dtype=np.uint8)
        return (encode_frame(pixels),)

    def problem(self, cell: Sequence[bytes], *, thorough: bool = False) -> str:
        if len(cell) > MAX_FRAMES:
            return f"There are {len(cell)} frames; at most {MAX_FRAMES} are read."
        try:
            for index, frame in enumerate(cell):
                if thorough:
                    decode_frame(frame, index)
                else:
                    open_frame(frame, index)
        except UnreadableError as error:
            return str(error)
        return ""

    def encoder_input(
        self, cell: Sequence[bytes], settings: EncoderConfig, context: Sequence[str] = ()
    ) -> list[np.ndarray]:
        if len(cell) > MAX_FRAMES:
            raise UnreadableError(self.problem(cell))
        return [decode_frame(cell[index], index) for index in spread(len(cell), settings.max_frames)]

    def tokens(self, cell: Sequence[bytes], settings: EncoderConfig) -> int:
        return TOKENS_PER_FRAME * min(len(cell), settings.max_frames)

    def received(self, row: Sequence[bytes]) -> tuple[bytes, ...] | None:
        return tuple(filter(None, row)) or None

    def sent(self, cell: Sequence[bytes]) -> list[bytes]:
        return list(cell)
