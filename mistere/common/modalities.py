"""The names of the modalities that every dataset has by itself, and the value of any modality of an utterance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

Modality = str
"""The name of a modality: ``speech``, ``text``, or one that a dataset declares."""
SPEECH: Final = "speech"
TEXT: Final = "text"
IMPLICIT_KINDS: Final[Mapping[str, str]] = {SPEECH: "audio", TEXT: "text"}
"""The modalities that a dataset need not declare, and their kinds (:mod:`mistere.data.kinds`)."""


class HasModalities(Protocol):
    """An object with a transcript and encoded audio, either of which may be None.

    It may have further modalities in ``others``, a mapping of their names to their cells.
    """

    @property
    def text(self) -> str | None: ...

    @property
    def audio(self) -> bytes | None: ...


def cell_of(utterance: HasModalities, modality: str) -> Any | None:
    """The value of a modality of an utterance; None if it has none."""
    if modality == SPEECH:
        return utterance.audio or None
    if modality == TEXT:
        return utterance.text or None
    return getattr(utterance, "others", {}).get(modality)
