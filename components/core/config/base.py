"""What every section of the configuration is."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """Base of every section: unknown keys are refused, values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    outside_key: ClassVar[frozenset[str]] = frozenset()
    """Settings that decide how or where work is done, not what comes out: they are no part of a step's key."""

    def keyed(self) -> dict[str, Any]:
        """What belongs to the key of a step that is handed this section."""
        return self.model_dump(mode="json", exclude=set(self.outside_key))


class SeededSection(Section):
    """A section whose stage draws random numbers; ``seed`` is the configuration's one seed unless set here."""

    seed: int = Field(default=0, ge=0, lt=2**32)
