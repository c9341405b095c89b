"""Transcripts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mistere.data.kinds.kind import Degradation, Kind
from mistere.data.text_repair import is_blank

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from mistere.config.encoder import EncoderConfig


@dataclass(frozen=True, slots=True)
class Transcript:
    """The text of an utterance and of the turns before it, oldest first."""

    text: str
    context: tuple[str, ...] = ()


def without_words(text: str, share: float, draw: np.random.Generator) -> str:
    """The text with each word dropped with probability ``share``; at least one word is kept."""
    words = text.split()
    kept = [word for word, dropped in zip(words, draw.random(len(words)) < share, strict=True) if not dropped]
    return " ".join(kept or words[:1])


_MADE_UP: Final = (
    "Good morning, this is the front desk.",
    "Hello, I am calling about my order from last week.",
    "One moment please, I will look it up for you.",
)


class Text(Kind):
    """A string; None if it has no visible character."""

    name = "text"
    stored_as = "text"
    rows_per_window = 2048
    size_setting = "max_tokens"
    plain_text = True
    degradations = {  # noqa: RUF012
        "words_10": Degradation("every tenth word lost", lambda text, draw: without_words(text, 0.1, draw)),
        "words_20": Degradation("every fifth word lost", lambda text, draw: without_words(text, 0.2, draw)),
    }

    def leaf(self, modality: str) -> str:
        return self.column(modality)

    def arrow_type(self) -> pa.DataType:
        import pyarrow as pa

        return pa.string()

    def fits(self, column_type: pa.DataType) -> bool:
        from pyarrow import types

        return bool(types.is_string(column_type) or types.is_large_string(column_type))

    def read(self, column: pa.Array) -> list[Any]:
        return [None if text is None or is_blank(text) else text for text in column.to_pylist()]

    def write(self, cell: str) -> str | None:
        return None if is_blank(cell) else cell

    def content(self, cell: str, context: Sequence[str] = ()) -> Iterable[bytes]:
        return [text.encode() for text in (cell, *context)]

    def made_up(self, turn: int, width: int | None = None) -> str:
        return _MADE_UP[turn % len(_MADE_UP)]

    def problem(self, cell: str, *, thorough: bool = False) -> str:
        return ""

    def encoder_input(self, cell: str, settings: EncoderConfig, context: Sequence[str] = ()) -> Transcript | None:
        if is_blank(cell):
            return None
        turns = context[-settings.context_turns :] if settings.context_turns else ()
        return Transcript(cell, tuple(turn for turn in turns if not is_blank(turn)))

    def tokens(self, cell: str, settings: EncoderConfig) -> int:
        return min(-(-len(cell.encode()) // 4), settings.max_tokens)

    def received(self, row: Sequence[bytes]) -> str | None:
        text = row[0].decode()
        return None if is_blank(text) else text

    def sent(self, cell: str) -> list[bytes]:
        return [cell.encode()]
