"""The manifest of an exported model: graphs, tokenizers, and what a program needs to use them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from mistere.artifacts.manifest import Manifest
from mistere.artifacts.manifests import ModelBundle
from mistere.common.names import RelativeName, Segment
from mistere.common.parsing.documents import read_json

GRAPH_SUFFIX: Final = ".onnx"
MIXTURE_GRAPH: Final = f"mixture{GRAPH_SUFFIX}"
TOKENIZER: Final = "tokenizer.json"
"""The name of a tokenizer's file, by which its checks find it."""
GRAPH_INPUTS: Final[Mapping[str, tuple[str, ...]]] = {
    "text": ("input_ids", "mask", "pooled"),
    "audio": ("samples",),
    "vector": ("values",),
}
"""The inputs of an encoder's graph by the kind of its modality."""
_MAX_TOKEN: Final = 2**31 - 1
_Width = Annotated[int, Field(gt=0, le=2**16)]


class TextInput(BaseModel):
    """How a text encoder's graph is fed.

    Attributes:
        tokenizer: its file, a ``tokenizer.json`` in any folder.
        max_tokens: tokens of an utterance with its context at most.
        pad_id: token of padding.
        separator: token between the turns of the context, as text.
        separator_id: the token between context and utterance.
        context_turns: earlier turns that are read with an utterance.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokenizer: RelativeName
    max_tokens: int = Field(gt=2, le=1 << 20)
    pad_id: int = Field(ge=0, le=_MAX_TOKEN)
    separator: str = Field(max_length=100)
    separator_id: int = Field(ge=0, le=_MAX_TOKEN)
    context_turns: int = Field(ge=0, le=64)


class AudioInput(BaseModel):
    """How a speech encoder's graph is fed: mono samples float32 in −1..1.

    Attributes:
        sampling_rate: of the samples, Hz.
        min_seconds: shorter recordings are padded with silence.
        max_seconds: longer recordings are cut.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sampling_rate: int = Field(gt=0)
    min_seconds: float = Field(ge=0)
    max_seconds: float = Field(gt=0, le=3600)


class EncoderGraph(BaseModel):
    """The graph of one modality's encoder; its output is ``vectors`` float32 ``[B, dimension]``.

    Attributes:
        graph: its file, named ``*.onnx``.
        kind: of the modality.
        inputs: names of the graph's inputs, those of :data:`GRAPH_INPUTS`.
        dimension: width of a vector.
        text: for an encoder of text.
        audio: for an encoder of speech.
        width: for an encoder of vectors, the number of their values.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    graph: RelativeName
    kind: Literal["text", "audio", "vector"]
    inputs: list[str]
    dimension: _Width
    text: TextInput | None = None
    audio: AudioInput | None = None
    width: _Width | None = None


class OnnxModel(Manifest):
    """A bundle as ONNX graphs: a graph for each encoder, ``mixture.onnx``, and tokenizers.

    The mixture's inputs are, for each modality, ``NAME`` float32 ``[B, T, d]`` and ``NAME_present`` bool ``[B, T]``, and ``lengths``
    int64 ``[B]``; its outputs ``probabilities`` ``[B, T, C]`` (calibrated), ``expert_weights`` ``[B, T, E]`` and
    ``expert_probabilities`` ``[B, T, E, C]``.
    """

    outside_digest = Manifest.outside_digest | {"versions"}

    labels: list[str]
    experts: list[str]
    dimensions: dict[Segment, _Width] = Field(
        description="Width of the vectors by modality, in the order of the experts."
    )
    encoders: dict[Segment, EncoderGraph]
    context_mode: Literal["full", "causal"]
    weights: int = Field(ge=0, le=2**40, description="Number of the mixture's weights.")
    precision: Literal["float32", "int8"]
    bundle: ModelBundle = Field(description="The source bundle's manifest, without files and provenance.")
    bundle_digest: Segment
    difference: float = Field(
        description="Largest difference of a probability from the bundle's, of the graphs in float32."
    )
    int8_difference: float | None = Field(
        default=None,
        exclude_if=lambda value: value is None,  # models in float32 keep their digests
        description="The same of the graphs in 8-bit integers, which are those in the folder; none in float32.",
    )
    figures: dict[str, float] = Field(
        default_factory=dict, description="Of the check on a dataset: weighted F1 and its paired difference."
    )
    versions: dict[str, str] = Field(default_factory=dict, description="Of what made the graphs.")


def is_exported(location: str) -> bool:
    """Whether a location is the folder of an exported model; only its manifest is read."""
    try:
        content = read_json(Path(location) / "manifest.json")
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("kind") == OnnxModel.__name__
