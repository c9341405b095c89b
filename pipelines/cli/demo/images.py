"""Read images from the browser, and make them small enough for a conversation of many turns."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from mistere.data.kinds.frames import MAX_FRAMES, decode_frame
from mistere.data.kinds.kind import UnreadableError

_LONGEST_SIDE: Final = 384
"""Encoders scale images to 224 to 336 pixels; larger ones only make the request larger."""
_QUALITY: Final = 90


def image_modalities(metadata: Mapping[str, Any]) -> list[str]:
    """The modalities of a served model that take images.

    Args:
        metadata: of the model, as the endpoint states it.
    """
    limits = metadata.get("properties", {})
    names = [str(tensor.get("name")) for tensor in metadata.get("inputs", ())]
    return [name for name in names if f"limit.{name}.frames" in limits]


def take_images(paths: Iterable[Path]) -> tuple[bytes, ...]:
    """Read images and delete their files.

    Args:
        paths: JPEG or PNG files, in the order of time.

    Returns:
        The images, each scaled to at most 384 pixels a side.

    Raises:
        UnreadableError: one is no such image, damaged or too large, or there are too many.
    """
    files = list(paths)
    try:
        contents = [path.read_bytes() for path in files]
    finally:
        for path in files:
            path.unlink(missing_ok=True)
    if len(contents) > MAX_FRAMES:
        raise UnreadableError(f"There are {len(contents)} images; a turn takes at most {MAX_FRAMES}.")
    return tuple(_scaled(content, index) for index, content in enumerate(contents))


def _scaled(content: bytes, index: int) -> bytes:
    import PIL.Image

    image = PIL.Image.fromarray(decode_frame(content, index))
    if max(image.size) <= _LONGEST_SIDE:
        return content
    image.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
