"""The ``scoring`` section: how a whole archive of dialogues is scored with a released model."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from mistere.config.base import Section

SPEAKER = "speaker"


class ScoringConfig(Section):
    """Settings of ``mistere score`` and of the scoring pipeline.

    Attributes:
        model: digest of the bundle to score with; empty for the champion.
        by: columns of the dataset by whose values the calls are grouped, such as a queue or a product. ``speaker`` is refused.
        time: column of the dataset with the time of a call; empty for results without trends.
        min_calls: groups and periods with fewer calls are not reported.
        undecodable: ``missing`` scores an utterance whose recording or image does not decode without it; ``fail`` ends the scoring.
        int8: compute the encoders in 8-bit integers on a CPU: faster on most, and a little less exact; a GPU ignores it.
        cache: where the vectors of utterances are kept: ``store``, a folder, ``s3://…``, or ``off``.
        shards: number of parallel tasks on a cluster.
    """

    outside_key: ClassVar[frozenset[str]] = frozenset({"model", "cache", "shards", "min_calls"})

    model: str = Field(default="", pattern=r"^$|^[0-9a-f]{64}$")
    by: list[str] = Field(default_factory=list, max_length=8)
    time: str = ""
    min_calls: int = Field(default=20, ge=2)
    undecodable: Literal["missing", "fail"] = "missing"
    int8: bool = False
    cache: str = Field(default="store", min_length=1)
    shards: int = Field(default=1, ge=1, le=256)

    @field_validator("by")
    @classmethod
    def _are_groups(cls, columns: list[str]) -> list[str]:
        if len(set(columns)) != len(columns):
            raise ValueError("each column may be named once")
        if any(not column.strip() for column in columns):
            raise ValueError("a column is a name")
        if SPEAKER in (column.strip().lower() for column in columns):
            raise ValueError("results never say who spoke: name another column than speaker")
        return columns
