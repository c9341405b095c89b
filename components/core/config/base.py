"""What every section of the configuration is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """Base of every section: unknown keys are refused, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SeededSection(Section):
    """A section whose stage draws random numbers; ``seed`` is the configuration's one seed unless set here."""

    seed: int = Field(default=0, ge=0, lt=2**32)
