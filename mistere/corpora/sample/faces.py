"""Draw the faces of the sample: a few small frames for each utterance, from shapes that a face's parameters place.

Everything is computed with additions, multiplications and whole numbers, and reduced from four times the size by averaging, so the
same seed gives the same pixels. A face's looks (skin, hair, proportions) belong to its speaker and its position and light to the
utterance; neither tells anything about the emotion. Faces are nearly aligned, as a tracker crops them.
"""

from __future__ import annotations

import io
import zlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from mistere.corpora.sample.expressions import Expression, draw_expression, eased
from mistere.corpora.sample.wording import Emotion

if TYPE_CHECKING:
    from PIL import Image

SIZE: Final = 48
"""Width and height of a frame in pixels."""
FRAMES: Final = 4
_SCALE: Final = 4
"""Shapes are drawn this many times larger and averaged, which smooths their edges."""
_ONSET: Final = (0.55, 0.95, 1.0, 0.8)
"""Share of the expression in each frame: it comes, stays and fades."""
_BLINK = 0.12
_FACE_STREAM: Final = 0xFACE
"""Sets the random numbers of a face apart from those of the voice, which use the utterance's seed as it is."""

_Colour = tuple[int, int, int]
_SKINS: Final[tuple[_Colour, ...]] = (
    *((246, 214, 188), (232, 190, 156), (214, 166, 128), (188, 138, 100), (150, 104, 74), (112, 76, 54)),
)
_HAIRS: Final[tuple[_Colour, ...]] = (
    *((40, 30, 26), (84, 54, 34), (136, 92, 48), (196, 158, 92), (120, 120, 124), (150, 62, 34)),
)


class _Looks(NamedTuple):
    """What a speaker's face looks like at rest."""

    skin: _Colour
    hair: _Colour
    width: float
    eye_distance: float
    fringe: float
    long_hair: bool


def draw_frames(emotion: Emotion, speaker: str, seed: int) -> list[bytes] | None:
    """The face of one utterance as PNG images of 48 by 48 pixels, in order; None if the camera shows no face.

    Args:
        emotion: the utterance's emotion.
        speaker: name of the speaker, which decides what the face looks like.
        seed: the utterance's seed.
    """
    draw = np.random.Generator(np.random.PCG64([seed, _FACE_STREAM]))
    expression = draw_expression(emotion, draw)
    if expression is None:
        return None
    looks, light = _looks_of(speaker), draw.uniform(0.7, 1.02)
    backdrop: _Colour = tuple(int(value) for value in draw.integers(60, 215, 3))  # type: ignore[assignment]
    x, y, drift_x, drift_y = (draw.uniform(-1, 1, 4) * (0.6, 0.5, 0.2, 0.2)).tolist()
    blink = int(draw.integers(FRAMES)) if draw.random() < _BLINK else -1
    frames = []
    for index, share in enumerate(_ONSET):
        jitter = draw.uniform(-1, 1, 6) * (0.05, 0.09, 0.06, 0.05, 0.05, 0.05)  # the mouth moves as it speaks
        frame = eased(expression, share, jitter)
        if index == blink:
            frame = frame._replace(eyes=0.0)
        image = _paint(frame, looks, backdrop, x + index * drift_x, y + index * drift_y)
        frames.append(_encoded(image, light, draw))
    return frames


def _looks_of(speaker: str) -> _Looks:
    """Looks that depend on the speaker's name alone."""
    code = zlib.crc32(f"face of {speaker}".encode())
    digits = [(code >> shift) & 0xFF for shift in (0, 8, 16, 24)]
    return _Looks(
        skin=_SKINS[digits[0] % len(_SKINS)],
        hair=_HAIRS[digits[1] % len(_HAIRS)],
        width=0.88 + 0.2 * (digits[2] % 16) / 15,
        eye_distance=0.92 + 0.16 * (digits[3] % 16) / 15,
        fringe=(digits[2] // 16) / 15,
        long_hair=digits[3] >= 128,
    )


def _paint(face: Expression, looks: _Looks, backdrop: _Colour, x: float, y: float) -> Image.Image:
    """Paint one frame.

    Args:
        face: the expression.
        looks: the speaker's looks.
        backdrop: colour of the background.
        x: shift to the right, in pixels of the frame.
        y: shift down.
    """
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (SIZE * _SCALE, SIZE * _SCALE), backdrop)
    pen = _Pen(ImageDraw.Draw(image), SIZE / 2 + x, SIZE / 2 + 2 + y)
    half = 14.0 * looks.width
    if looks.long_hair:
        pen.ellipse(0, -1, half + 3.5, 20, looks.hair)
    pen.ellipse(0, -3, half + 1.5, 18.5, looks.hair)
    pen.ellipse(0, 1.5 + looks.fringe, half, 17.5 - looks.fringe, looks.skin)
    shade = _mixed(looks.skin, (0, 0, 0), 0.25)
    pen.line([(0, -1), (-0.8, 4), (0.8, 4.2)], 0.9, shade)
    for side in (-1, 1):
        _paint_eye(pen, face, looks, side * 6.0 * looks.width * looks.eye_distance, side)
    _paint_mouth(pen, face, looks)
    return image.reduce(_SCALE)


def _paint_eye(pen: _Pen, face: Expression, looks: _Looks, x: float, side: int) -> None:
    """An eye and its brow; ``side`` is -1 for the left one."""
    opening = 0.35 + 2.9 * face.eyes
    if face.eyes < 0.08:
        pen.line([(x - 3, -3), (x + 3, -3)], 0.9, _mixed(looks.skin, (0, 0, 0), 0.5))
    else:
        pen.ellipse(x, -3, 3.2, opening, (250, 250, 248))
        pen.ellipse(x, -3, 1.5, min(1.5, opening), (36, 30, 34))
    height = -7.6 - 2.6 * face.brows
    inner, outer = height - 2.0 * face.slant, height + 1.6 * face.slant
    dark = _mixed(looks.hair, (0, 0, 0), 0.45)
    pen.line([(x - side * 3.4, inner), (x, (inner + outer) / 2 - 0.5), (x + side * 3.6, outer)], 1.3, dark)


def _paint_mouth(pen: _Pen, face: Expression, looks: _Looks) -> None:
    """A mouth between two parabolas: its corners are where they meet."""
    half = 5.6 + 1.9 * face.stretch
    bend, opening = 3.0 * face.curve, 4.6 * face.gape
    steps = [index / 8 - 1 for index in range(17)]
    upper = [(half * step, 9.5 + bend * (0.5 - step * step) - opening * (1 - step * step)) for step in steps]
    lower = [(half * step, 9.5 + bend * (0.5 - step * step) + opening * (1 - step * step)) for step in steps]
    lips = _mixed(looks.skin, (150, 20, 40), 0.55)
    pen.polygon(upper + lower[::-1], (70, 16, 24))
    pen.line([*upper, *lower[::-1], upper[0]], 1.2, lips)


class _Pen:
    """Draws in pixels of the finished frame, relative to the middle of the face."""

    def __init__(self, canvas: Any, x: float, y: float) -> None:
        self._canvas, self._x, self._y = canvas, x, y

    def _at(self, x: float, y: float) -> tuple[int, int]:
        return round((self._x + x) * _SCALE), round((self._y + y) * _SCALE)

    def ellipse(self, x: float, y: float, half_width: float, half_height: float, colour: _Colour) -> None:
        """A filled ellipse around a point."""
        corners = [self._at(x - half_width, y - half_height), self._at(x + half_width, y + half_height)]
        self._canvas.ellipse(corners, fill=colour)

    def polygon(self, points: list[tuple[float, float]], colour: _Colour) -> None:
        """A filled polygon."""
        self._canvas.polygon([self._at(*point) for point in points], fill=colour)

    def line(self, points: list[tuple[float, float]], width: float, colour: _Colour) -> None:
        """Connected lines."""
        self._canvas.line([self._at(*point) for point in points], fill=colour, width=round(width * _SCALE))


def _mixed(one: _Colour, other: _Colour, share: float) -> _Colour:
    return tuple(round(a + share * (b - a)) for a, b in zip(one, other, strict=True))  # type: ignore[return-value]


def _encoded(image: Image.Image, light: float, draw: np.random.Generator) -> bytes:
    """The frame under its light, with a camera's noise of a few levels, as PNG."""
    from PIL import Image

    pixels = np.asarray(image, dtype=np.int64)
    noise = draw.integers(-3, 4, (SIZE, SIZE, 1))
    lit = np.clip((pixels * round(light * 256)) // 256 + noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(lit).save(file, "PNG")
    return file.getvalue()
