"""The ``data`` section."""

from __future__ import annotations

from pydantic import Field

from mistere.config.base import SeededSection


class DataConfig(SeededSection):
    """The dataset of a run.

    Attributes:
        source: a ``.dvc`` file or a folder in the dataset form, resolved to a DVC digest before the run starts.
        max_dialogues: use at most this many dialogues over all splits; None for all.
    """

    source: str = "data.dvc"
    max_dialogues: int | None = Field(default=None, ge=3)
