"""The ``data`` section."""

from __future__ import annotations

from pydantic import Field

from mistere.config.base import SeededSection


class DataConfig(SeededSection):
    """Which data: a ``.dvc`` file or a folder in the dataset form, resolved to a DVC digest before the run starts."""

    source: str = "data.dvc"
    max_dialogues: int | None = Field(default=None, ge=3)
