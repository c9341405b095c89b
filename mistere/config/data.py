"""The ``data`` section."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from mistere.config.base import SeededSection
from mistere.config.transcription import TranscriptionConfig


class DataConfig(SeededSection):
    """The dataset of a run.

    Attributes:
        source: a ``.dvc`` file or a folder in the dataset form, resolved to a DVC digest before the run starts.
        max_dialogues: use at most this many dialogues over all splits; None for all.
        transcription: transcripts of utterances that have audio and no text; a step of its own.
    """

    source: str = "data.dvc"
    max_dialogues: int | None = Field(default=None, ge=3)
    transcription: TranscriptionConfig = TranscriptionConfig()

    outside_key: ClassVar[frozenset[str]] = frozenset({"transcription"})
