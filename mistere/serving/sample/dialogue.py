"""A kept dialogue: what was said, and what the model answered. It holds no speaker and not the dialogue's id."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

SCHEMA_VERSION: Final = 1
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}")


def _digest(text: str) -> str:
    if not _SHA256.fullmatch(text):
        raise ValueError("it is no SHA-256")
    return text


def _day(text: str) -> str:
    if not _DAY.fullmatch(text):
        raise ValueError("it is no day")
    return text


class KeptTurn(BaseModel):
    """A turn.

    Attributes:
        text: the transcript that the client sent.
        transcript: the model's own transcript of the recording, if the client sent no text.
        audio: SHA-256 of the recording; None for none.
        predicted: whether the turn is predicted; others are context, and their rows are zeros.
        label: the predicted label; empty for context.
        probabilities: by label.
        expert_weights: by expert.
        expert_probabilities: by expert and label.
        modalities: the modalities that were read, ``+``-joined or ``none``.
    """

    model_config = ConfigDict(extra="forbid")

    text: str | None = None
    transcript: str | None = None
    audio: Annotated[str, AfterValidator(_digest)] | None = None
    predicted: bool = True
    label: str = ""
    probabilities: list[float]
    expert_weights: list[float]
    expert_probabilities: list[list[float]]
    modalities: str = "none"


class KeptStream(BaseModel):
    """Turns of a dialogue that follow each other and came by one stream, or as a whole.

    Attributes:
        name: of the stream, random hexadecimal digits; empty for turns that came as a whole.
        first: number of the first of these turns in the stream.
        turns: how many they are.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = ""
    first: int = 0
    turns: Annotated[int, Field(ge=0)]


class KeptDialogue(BaseModel):
    """A dialogue as far as it has gone.

    Attributes:
        schema_version: of this form.
        began_at: when its first kept request was answered, seconds since 1970.
        updated_at: when its last one was.
        keep_until: the last day on which it is kept, in UTC.
        bundle_digest: of the model that answered last.
        labels: of that model, in the order of the probabilities.
        experts: of its answer, in the order of the weights.
        vectors: whether the client sent vectors instead of texts and recordings.
        turns: the turns, in order.
        streams: the streams that the turns came by, in their order; empty if they came as a whole.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1] = SCHEMA_VERSION
    began_at: float
    updated_at: float
    keep_until: Annotated[str, AfterValidator(_day)]
    bundle_digest: str
    labels: list[str]
    experts: list[str]
    vectors: bool = False
    turns: list[KeptTurn]
    streams: list[KeptStream] = []

    @model_validator(mode="after")
    def _shapes_fit(self) -> KeptDialogue:
        for turn in self.turns:
            widths = {len(turn.probabilities), *map(len, turn.expert_probabilities)}
            if widths != {len(self.labels)} or len(turn.expert_weights) != len(self.experts):
                raise ValueError("a turn has another number of labels or experts")
            if len(turn.expert_probabilities) != len(self.experts):
                raise ValueError("a turn has another number of experts")
        if self.streams and sum(stream.turns for stream in self.streams) != len(self.turns):
            raise ValueError("the streams have another number of turns")
        return self

    @property
    def is_readable(self) -> bool:
        """Whether a person can label a turn of it: one that is predicted and has a text or a recording."""
        return any(turn.predicted and (turn.text or turn.transcript or turn.audio) for turn in self.turns)

    def array(self, name: Literal["probabilities", "expert_weights", "expert_probabilities"]) -> np.ndarray:
        """A field of the predicted turns as float64 ``[n, ...]``."""
        return np.array([getattr(turn, name) for turn in self.turns if turn.predicted], np.float64)


def pack_vectors(vectors: Mapping[str, np.ndarray]) -> bytes:
    """The vectors of a dialogue, modality → ``[n, d]``, as a safetensors file."""
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(matrix) for name, matrix in vectors.items()})


def unpack_vectors(data: bytes) -> dict[str, np.ndarray]:
    """The inverse of :func:`pack_vectors`, as float32.

    Raises:
        ValueError: it is no such file.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return {name: matrix.astype(np.float32) for name, matrix in load(data).items() if matrix.ndim == 2}
    except SafetensorError as error:
        raise ValueError("it is no file of vectors") from error
