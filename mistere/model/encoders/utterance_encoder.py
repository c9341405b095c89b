"""The utterance encoder of every family: backbone → pooling → LayerNorm → projection (the utterance vector) → head.

With ``layer_norm: before_pooling`` the LayerNorm precedes the pooling.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mistere.common.counting import counted
from mistere.common.errors import ArtifactError, UsageError
from mistere.common.parsing.documents import load_json
from mistere.config.encoder import EncoderConfig
from mistere.model.encoders.families.family import Family
from mistere.model.weight_files import OTHER_MODEL, read_weights


class Pooling(nn.Module):
    """Pool hidden layers ``L × [B, T, D]`` with a mask ``[B, T]`` into one vector for each utterance ``[B, P]``, in float32.

    ``mean``, ``first`` and ``last`` read the last layer; ``layer_mix`` averages every layer over time and learns a softmax
    weight for each; ``attentive`` learns a weight for each position and concatenates mean and standard deviation (P = 2 D,
    attentive statistics pooling, Okabe et al., arXiv 1803.10963).

    Args:
        kind: the pooling.
        width: D.
        layers: L.
        attentive_width: hidden width of the attention: 128 (``narrow``), or D (``backbone``), with the initial weights and
            the smallest variance of the published model.
    """

    def __init__(self, kind: str, width: int, layers: int, attentive_width: str = "narrow") -> None:
        super().__init__()
        self.kind, self._width = kind, width
        self.output_width = 2 * width if kind == "attentive" else width
        if kind == "layer_mix":
            self.layer_logits = nn.Parameter(torch.zeros(layers))
        if kind == "attentive":
            wide = attentive_width == "backbone"
            hidden = width if wide else 128
            self._least_variance = 1e-5 if wide else 1e-6
            score = nn.Linear(hidden, 1, bias=not wide)
            self.attention = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), score)
            if wide:
                nn.init.normal_(score.weight)

    def forward(self, states: list[Tensor], mask: Tensor) -> Tensor:
        if self.kind == "first":
            return states[-1][:, 0].float()
        if self.kind == "last":
            last = mask.shape[1] - 1 - mask.flip(1).int().argmax(1)
            return states[-1][torch.arange(len(last), device=last.device), last].float()
        if self.kind == "attentive":
            return self._attentive(states[-1].float(), mask)
        weight = mask[..., None].float()
        count = weight.sum(1).clamp(min=1)
        if self.kind == "mean":
            return (states[-1] * weight).sum(1) / count
        means = torch.stack([nn.functional.layer_norm((s * weight).sum(1) / count, (self._width,)) for s in states])
        return torch.einsum("l,lbd->bd", self.layer_logits.softmax(0), means)

    def _attentive(self, states: Tensor, mask: Tensor) -> Tensor:
        scores = self.attention(states).squeeze(-1).masked_fill(~mask, float("-inf"))
        weight = scores.softmax(1)[..., None]
        mean = (weight * states).sum(1)
        variance = (weight * (states - mean[:, None]).square()).sum(1)
        return torch.cat([mean, variance.clamp(min=self._least_variance).sqrt()], dim=-1)


class UtteranceEncoder(nn.Module):
    """A family's backbone with pooling, projection and head, which stay in float32 whatever the backbone's precision.

    Args:
        family: loads, feeds and reads the backbone.
        settings: the encoder's section.
        classes: width of the head.

    Raises:
        UsageError: the base does not load, or the pooling does not suit the family.
    """

    def __init__(self, family: Family, settings: EncoderConfig, classes: int) -> None:
        super().__init__()
        if family.causal and settings.pooling == "first":
            raise UsageError(
                f"pooling=first reads a position without information in {settings.source}, whose attention "
                "is causal: choose last, mean or attentive."
            )
        self.family, self.settings = family, settings
        self.backbone = family.load_backbone()
        width = family.hidden_size(self.backbone)
        layers = len(family.layers(self.backbone)) + 1
        self.pooling = Pooling(settings.pooling, width, layers, settings.attentive_width)
        self._norm_first = settings.layer_norm == "before_pooling"
        self.norm = nn.LayerNorm(width if self._norm_first else self.pooling.output_width)
        self.projection = nn.Linear(self.pooling.output_width, settings.projection)
        self.head = nn.Sequential(nn.ReLU(), nn.Dropout(settings.dropout), nn.Linear(settings.projection, classes))

    def embed(self, batch: dict[str, Tensor]) -> Tensor:
        """Utterance vectors ``[B, projection]``."""
        return self.vectors(*self.family.hidden_states(self.backbone, batch))

    def vectors(self, states: list[Tensor], mask: Tensor) -> Tensor:
        """Utterance vectors ``[B, projection]`` from the states ``[B, T, D]`` of the backbone's layers and their mask ``[B, T]``."""
        if not self._norm_first:
            return self.projection(self.norm(self.pooling(states, mask)))
        read = states if self.settings.pooling == "layer_mix" else states[-1:]
        return self.projection(self.pooling([self.norm(layer.float()) for layer in read], mask))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits ``[B, classes]``."""
        return self.head(self.embed(batch))


_TOP = ("pooling.", "norm.", "projection.", "head.")
_SCALES = "adapters"
"""Metadata key of the scales of the adapters, by module."""
_DOWN, _UP = ".lora_A", ".lora_B"


def save_tuned(encoder: UtteranceEncoder, directory: Path) -> None:
    """Write what differs from the base: the modules on top, the trained parameters of the backbone, and adapters.

    An adapter is written as its two factors, a few megabytes for 7 billion parameters; reading does not need PEFT.
    """
    from safetensors.torch import save_file

    trained = {name for name, p in encoder.named_parameters() if p.requires_grad and ".lora_" not in name}
    kept = {name: t for name, t in encoder.state_dict().items() if name.startswith(_TOP) or name in trained}
    factors, scales = _adapters(encoder)
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in {**kept, **factors}.items()},
        directory / "tuned.safetensors",
        metadata={_SCALES: json.dumps(scales, sort_keys=True)},  # one entry: the order of several is not deterministic
    )


def _adapters(encoder: UtteranceEncoder) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The two factors and the scale of every adapter."""
    factors: dict[str, Tensor] = {}
    scales: dict[str, float] = {}
    for name, module in encoder.named_modules():
        if hasattr(module, "lora_A") and hasattr(module, "get_delta_weight"):
            layer: Any = module
            factors[name + _DOWN] = layer.lora_A["default"].weight
            factors[name + _UP] = layer.lora_B["default"].weight
            scales[name] = float(layer.scaling["default"])
    return factors, scales


def load_tuned(family: Family, settings: EncoderConfig, classes: int, file: Path) -> UtteranceEncoder:
    """Rebuild a fine-tuned encoder, in evaluation mode, from its base and the file of :func:`save_tuned`.

    Adapters are merged into their projections: base + scale · B A (LoRA, Hu et al., arXiv 2106.09685).

    Raises:
        ArtifactError: the file belongs to another encoder, or its weights are not finite.
    """
    from mistere.model.encoders.pretrained import dequantise

    tensors, metadata = read_weights(file)
    for name, size in (("projection.weight", settings.projection), ("head.2.weight", classes)):
        if name not in tensors or tensors[name].ndim != 2 or len(tensors[name]) != size:  # before memory is allocated
            raise ArtifactError(
                f"{file} does not fit its encoder: {name} does not have {counted(size, 'row')}", OTHER_MODEL
            )
    encoder = UtteranceEncoder(family, settings, classes)
    dequantise(encoder, family.dtype)
    try:
        _merge_adapters(encoder, tensors, load_json(metadata.get(_SCALES, "{}")))
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        raise ArtifactError(f"{file} does not fit its encoder: it describes no adapters of it", OTHER_MODEL) from error
    try:
        missing, unexpected = encoder.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        reason = " ".join(str(error).split()).partition(": ")[2]
        raise ArtifactError(f"{file} does not fit its encoder: {reason[:200]}", OTHER_MODEL) from error
    absent = [name for name in missing if name.startswith(_TOP)]
    if absent or unexpected:
        raise ArtifactError(
            f"{file} does not fit its encoder: {(absent or unexpected)[0]} is {'missing' if absent else 'unknown'}",
            OTHER_MODEL,
        )
    return encoder.eval()


@torch.no_grad()
def _merge_adapters(encoder: UtteranceEncoder, tensors: dict[str, Tensor], scales: dict[str, float]) -> None:
    """Merge adapters into the projections that they change, and remove their factors from ``tensors``."""
    for module, scale in scales.items():
        if not math.isfinite(scale):
            raise ValueError("a scale is not finite")
        down, up = tensors.pop(module + _DOWN), tensors.pop(module + _UP)
        weight = encoder.get_parameter(f"{module}.weight")
        if up.ndim != 2 or down.ndim != 2 or (len(up), down.shape[1]) != tuple(weight.shape):
            raise ValueError("the factors have another shape")
        weight.add_((scale * (up.float() @ down.float())).to(weight))
