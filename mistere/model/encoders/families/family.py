"""The interface of an encoder family: load a backbone, prepare its inputs, read its hidden states."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mistere.config.encoder import EncoderConfig
from mistere.model.encoders.fused import FusedLayer
from mistere.model.encoders.lookup.checkpoint_size import BaseWeights
from mistere.model.encoders.preparation import Features
from mistere.model.encoders.pretrained import load_pretrained


class Family(ABC):
    """One kind of backbone.

    Args:
        directory: configuration, weights (safetensors) and preprocessing in the format of ``transformers``.
        settings: the encoder's section of the configuration.
        dtype: type of the backbone's weights.
    """

    name: ClassVar[str]
    kind: ClassVar[str]
    """The kind of modality (:mod:`mistere.data.kinds`) whose input this family reads."""
    measured: ClassVar[bool] = False
    """Whether the base is measured in train (``source: measured:FAMILY``) instead of pretrained."""
    lora_targets: ClassVar[tuple[str, ...]] = ()
    """Name endings of the projections that get adapters by default."""
    lora_excluded: ClassVar[str] = ""
    """Regular expression on full names of modules that never get adapters."""
    causal: ClassVar[bool] = False
    """Whether attention is causal, so that the first position carries no information."""
    rate: ClassVar[float] = 1.0
    """Units of ``length`` in a second of audio; of another kind, ``length`` counts tokens or other positions."""
    unit: ClassVar[int] = 1
    """``length`` is a multiple of this."""
    shortens: ClassVar[bool] = False
    """Whether :meth:`write_shortened` can leave out layers of a backbone."""
    graph_inputs: ClassVar[tuple[str, ...]] = ()
    """Names of the inputs of an exported graph, see :meth:`graph_states`; empty for a family that cannot be exported."""
    variants: ClassVar[tuple[str, ...]] = ("",)
    """Kinds of backbone that :meth:`write_random` can make; the conformance tests cover each."""

    def __init__(self, directory: Path, settings: EncoderConfig, dtype: torch.dtype = torch.float32) -> None:
        self.directory, self.settings, self.dtype = directory, settings, dtype
        self.fused: Sequence[FusedLayer] = ()
        """The result of :meth:`fused_layers`, after :meth:`fuse`."""

    @classmethod
    @abstractmethod
    def handles(cls, model_type: str) -> bool:
        """Whether a ``transformers`` model type belongs to this family."""

    @classmethod
    def export_base(cls, source: Path, target: Path) -> None:
        """Copy what the backbone needs from a ``transformers`` folder: configuration, weights, preprocessing."""
        copy_model_files(source, target)

    @classmethod
    def base_weights(cls, model_type: str) -> BaseWeights:
        """What :meth:`export_base` keeps of the weights of a checkpoint, so that its size is known before it is downloaded."""
        return BaseWeights()

    @classmethod
    @abstractmethod
    def write_random(cls, target: Path, seed: int, variant: str = "") -> None:
        """Write a tiny randomly initialised backbone of one of the family's variants, for tests."""

    @classmethod
    def measure(cls, target: Path, inputs: Iterable[Any]) -> None:
        """Write the base of a :attr:`measured` family in the format of ``transformers``.

        Args:
            target: the folder.
            inputs: what :meth:`prepare` would get of every utterance of train.
        """
        raise NotImplementedError

    def write_shortened(self, backbone: nn.Module, kept: Sequence[int], pooled: int, target: Path) -> None:
        """Write a base with some layers of a backbone and their weights in half precision, which halves its size.

        Args:
            backbone: the fine-tuned backbone; it is changed.
            kept: numbers of the layers, ascending.
            pooled: of speech, positions that are averaged into one before the layers.
            target: the folder.
        """
        raise NotImplementedError

    @property
    def input_width(self) -> int | None:
        """The number of values that an utterance must have; None if any number will do."""
        return None

    @abstractmethod
    def load_backbone(self) -> nn.Module:
        """The pretrained backbone, in evaluation mode."""

    def pretrained(self, auto: Any, optional: str = r"^$") -> Any:
        """The backbone of a class of ``transformers``, from :attr:`directory` as :attr:`settings` want it.

        Args:
            auto: class with ``from_pretrained``.
            optional: regular expression on the names of unused weights, which may be missing.

        Raises:
            UsageError: the weights do not match the configuration, or bitsandbytes is not installed.
        """
        return load_pretrained(
            auto,
            self.directory,
            source=self.settings.source,
            dtype=self.dtype,
            optional=optional,
            four_bits=self.settings.tuning == "qlora",
        )

    @abstractmethod
    def layers(self, backbone: nn.Module) -> Sequence[nn.Module]:
        """The transformer layers from bottom to top."""

    @abstractmethod
    def hidden_size(self, backbone: nn.Module) -> int:
        """Width D of the hidden states."""

    def adapter_targets(self, backbone: nn.Module, configured: Sequence[str]) -> list[str]:
        """Name endings of the projections that get adapters.

        Args:
            backbone: the backbone.
            configured: ``lora.target_modules``; empty for the family's default.
        """
        return list(configured or self.lora_targets)

    @abstractmethod
    def prepare(self, utterance: Any) -> Features:
        """Features of one utterance, independent of all others.

        Args:
            utterance: what the kind's :meth:`~mistere.data.kinds.kind.Kind.encoder_input` returns: a
                :class:`~mistere.data.kinds.text.Transcript`, mono samples float32 ``[N]`` at 16 kHz, images, a vector.

        Raises:
            UnreadableError: the utterance does not suit the encoder.
        """

    def excerpt_length(self, seconds: float) -> int:
        """``length`` of an excerpt of speech."""
        return max(1, int(seconds * self.rate) // self.unit) * self.unit

    def excerpt(self, features: Features, seconds: float, draw: random.Random) -> Features:
        """A random excerpt of the features of speech that is longer than this; shorter speech as it is."""
        over_time = {name: array for name, array in features.items() if name != "length"}
        length, wanted = len(next(iter(over_time.values()))), self.excerpt_length(seconds)
        if length <= wanted:
            return features
        start = self.unit * draw.randrange((length - wanted) // self.unit + 1)
        return {name: array[start : start + wanted] for name, array in over_time.items()} | {"length": wanted}

    def altered(self, features: Features, draw: random.Random) -> Features:
        """Features that mean the same and look otherwise, as a student sees them in training; by default the same."""
        return features

    @abstractmethod
    def collate(self, features: Sequence[Features]) -> dict[str, Tensor]:
        """Pad prepared utterances into a batch."""

    def fuse(self, backbone: nn.Module) -> None:
        """Prepare fused inference in float32 on a CPU without gradients; the weights must not change afterwards."""
        self.fused = self.fused_layers(backbone)

    def fused_layers(self, backbone: nn.Module) -> Sequence[FusedLayer]:
        """The backbone's layers as fused layers that share its weights; empty if the family has none."""
        return ()

    @abstractmethod
    def hidden_states(self, backbone: nn.Module, batch: dict[str, Tensor]) -> tuple[list[Tensor], Tensor]:
        """Run the backbone.

        Returns:
            The states ``[B, T, D]`` of the input and of every layer, and the mask ``[B, T]`` of the positions to pool, none
            of which is padding; it includes position 0 if ``first`` pooling makes sense.
        """

    def graph_states(self, backbone: nn.Module, inputs: dict[str, Tensor]) -> tuple[list[Tensor], Tensor]:
        """Run the backbone in operations that a graph can hold, from inputs that a program without PyTorch can make.

        No number may be taken out of a tensor: it would become a constant of the graph.

        Args:
            backbone: the backbone.
            inputs: by the names of :attr:`graph_inputs`: of text tokens ``[B, T]`` and their masks, of audio the samples ``[1, N]``
                at 16 kHz of one utterance, of a vector its values ``[B, d]``.

        Returns:
            As :meth:`hidden_states`.
        """
        raise NotImplementedError

    def write_graph_files(self, folder: Path) -> dict[str, Any]:
        """Write the files that a program needs to make the inputs of the graph, and return the numbers that it needs."""
        return {}


_MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
)


def copy_model_files(source: Path, target: Path, *, weights: bool = True) -> None:
    """Copy configuration, preprocessing and, unless told otherwise, safetensors weights; no file that could hold a pickle."""
    import shutil

    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.iterdir()):
        of_weights = file.suffix == ".safetensors" or file.name == "model.safetensors.index.json"
        if file.name in _MODEL_FILES or (weights and of_weights):
            shutil.copyfile(file, target / file.name)


def save_half(backbone: nn.Module, target: Path) -> None:
    """Write the weights of a backbone in half precision, beside its configuration."""
    from safetensors.torch import save_file

    weights = {name: tensor.half().contiguous() for name, tensor in backbone.state_dict().items()}
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})


def pad_stack(arrays: Sequence[Any], value: float = 0) -> tuple[Tensor, Tensor]:
    """Stack arrays ``[T_i, …]`` into ``[B, max T, …]`` and a mask ``[B, max T]`` that is False at padding."""
    tensors = [torch.as_tensor(array) for array in arrays]
    padded = nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)
    lengths = torch.tensor([len(tensor) for tensor in tensors])
    return padded, torch.arange(padded.shape[1])[None, :] < lengths[:, None]


def attention_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask ``[B, 1, 1, T]``: 0 at real positions, the lowest finite number at padding."""
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
    return bias[:, None, None, :]
