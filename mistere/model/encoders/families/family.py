"""What a family of backbones must tell: how to load it, feed it and read its hidden layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mistere.common.modalities import Modality
from mistere.config.encoder import EncoderConfig
from mistere.model.encoders.fused import FusedLayer

Features = dict[str, Any]
"""One prepared utterance: numpy arrays or lists, and ``length`` (frames or tokens) for batching by length."""


class Family(ABC):
    """One kind of backbone.

    Args:
        directory: configuration, weights (safetensors) and preprocessing, as ``transformers`` saves them.
        settings: the encoder's section of the configuration.
        dtype: of the backbone's weights.
    """

    name: ClassVar[str]
    modality: ClassVar[Modality]
    lora_targets: ClassVar[tuple[str, ...]] = ()
    """Name endings of the projections that adapters go to by default."""
    lora_excluded: ClassVar[str] = ""
    """Modules that adapters never go to, as a regular expression on whole names."""
    causal: ClassVar[bool] = False
    """Whether a position sees only what stands before it, so that the first one has seen nothing."""
    rate: ClassVar[float] = 1.0
    """What ``length`` counts, in a second of speech; text counts tokens."""
    variants: ClassVar[tuple[str, ...]] = ("",)
    """Kinds of backbone that :meth:`write_random` can make, so that the conformance tests see each."""

    def __init__(self, directory: Path, settings: EncoderConfig, dtype: torch.dtype = torch.float32) -> None:
        self.directory, self.settings, self.dtype = directory, settings, dtype
        self.fused: Sequence[FusedLayer] = ()
        """What :meth:`fused_layers` gave, after :meth:`fuse`."""

    @classmethod
    @abstractmethod
    def handles(cls, model_type: str) -> bool:
        """Whether a ``transformers`` model type belongs to this family."""

    @classmethod
    def export_base(cls, source: Path, target: Path) -> None:
        """Write what the backbone needs from a ``transformers`` folder: configuration, weights, preprocessing."""
        copy_model_files(source, target)

    @classmethod
    @abstractmethod
    def write_random(cls, target: Path, seed: int, variant: str = "") -> None:
        """Write a tiny randomly initialised backbone of this family, of one of its variants, for tests."""

    @abstractmethod
    def load_backbone(self) -> nn.Module:
        """The pretrained backbone, in evaluation mode."""

    @abstractmethod
    def layers(self, backbone: nn.Module) -> Sequence[nn.Module]:
        """The transformer layers from bottom to top."""

    @abstractmethod
    def hidden_size(self, backbone: nn.Module) -> int:
        """Width D of the hidden states."""

    def adapter_targets(self, backbone: nn.Module, asked: Sequence[str]) -> list[str]:
        """Name endings of the projections that adapters go to.

        Args:
            backbone: the backbone.
            asked: what the configuration names; empty for the family's own choice.
        """
        return list(asked or self.lora_targets)

    @abstractmethod
    def prepare(self, utterance: Any) -> Features:
        """Features of one utterance, independent of any other.

        Args:
            utterance: a :class:`~mistere.model.encoders.inputs.Transcript`, or mono samples float32 ``[N]`` at 16 kHz.
        """

    @abstractmethod
    def collate(self, features: Sequence[Features]) -> dict[str, Tensor]:
        """Pad prepared utterances into a batch."""

    def fuse(self, backbone: nn.Module) -> None:
        """Get ready to compute a backbone in float32 on a CPU without gradients; its weights are not to change any more."""
        self.fused = self.fused_layers(backbone)

    def fused_layers(self, backbone: nn.Module) -> Sequence[FusedLayer]:
        """The backbone's layers as one operation each, on its own weights; none where the family knows no such form."""
        return ()

    @abstractmethod
    def hidden_states(self, backbone: nn.Module, batch: dict[str, Tensor]) -> tuple[list[Tensor], Tensor]:
        """Run the backbone.

        Returns:
            Every layer's states ``[B, T, D]`` from the input up, and the mask ``[B, T]`` of the positions to pool, which
            are real ones; position 0 is among them where ``first`` pooling makes sense.
        """


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


def copy_model_files(source: Path, target: Path) -> None:
    """Copy configuration, preprocessing and safetensors weights; nothing that could hold a pickle."""
    import shutil

    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(source.iterdir()):
        if file.name in _MODEL_FILES or file.suffix == ".safetensors" or file.name == "model.safetensors.index.json":
            shutil.copyfile(file, target / file.name)


def pad_stack(arrays: Sequence[Any], value: float = 0) -> tuple[Tensor, Tensor]:
    """Stack arrays ``[T_i, …]`` into ``[B, max T, …]`` and the mask ``[B, max T]`` of what is real."""
    tensors = [torch.as_tensor(array) for array in arrays]
    padded = nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value)
    lengths = torch.tensor([len(tensor) for tensor in tensors])
    return padded, torch.arange(padded.shape[1])[None, :] < lengths[:, None]


def attention_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask ``[B, 1, 1, T]``: 0 where a position is real, the lowest number where it is padding."""
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
    return bias[:, None, None, :]
