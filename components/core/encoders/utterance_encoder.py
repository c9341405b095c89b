"""One utterance encoder for every backbone: backbone → pooling → LayerNorm → projection (the utterance vector) → head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.core.config.encoder import EncoderConfig
from components.core.encoders.family import Family
from components.core.errors import ArtifactError


class Pooling(nn.Module):
    """Hidden layers ``L × [B, T, D]`` and mask ``[B, T]`` to one vector an utterance ``[B, P]``.

    ``mean`` and ``first`` read the last layer; ``layer_mix`` averages over time in every layer and learns the layers'
    weights (softmax); ``attentive`` learns the positions' weights and gives mean ‖ standard deviation (P = 2 D).
    """

    def __init__(self, kind: str, width: int, layers: int) -> None:
        super().__init__()
        self.kind = kind
        self.output_width = 2 * width if kind == "attentive" else width
        if kind == "layer_mix":
            self.layer_logits = nn.Parameter(torch.zeros(layers))
        if kind == "attentive":
            self.attention = nn.Sequential(nn.Linear(width, 128), nn.Tanh(), nn.Linear(128, 1))

    def forward(self, states: list[Tensor], mask: Tensor) -> Tensor:
        if self.kind == "first":
            return states[-1][:, 0]
        if self.kind == "attentive":
            return self._attentive(states[-1], mask)
        weight = mask[..., None].to(states[-1].dtype)
        count = weight.sum(1).clamp(min=1)
        if self.kind == "mean":
            return (states[-1] * weight).sum(1) / count
        means = torch.stack([nn.functional.layer_norm((s * weight).sum(1) / count, s.shape[-1:]) for s in states])
        return torch.einsum("l,lbd->bd", self.layer_logits.softmax(0), means)

    def _attentive(self, states: Tensor, mask: Tensor) -> Tensor:
        scores = self.attention(states).squeeze(-1).masked_fill(~mask, float("-inf"))
        weight = scores.softmax(1)[..., None]
        mean = (weight * states).sum(1)
        variance = (weight * (states - mean[:, None]).square()).sum(1)
        return torch.cat([mean, variance.clamp(min=1e-6).sqrt()], dim=-1)


class UtteranceEncoder(nn.Module):
    """A family's backbone with what is trained on top.

    Args:
        family: how to feed and read the backbone.
        settings: the encoder's section.
        classes: width of the head.
    """

    def __init__(self, family: Family, settings: EncoderConfig, classes: int) -> None:
        super().__init__()
        self.family, self.settings = family, settings
        self.backbone = family.load_backbone()
        width = family.hidden_size(self.backbone)
        self.pooling = Pooling(settings.pooling, width, len(family.layers(self.backbone)) + 1)
        self.norm = nn.LayerNorm(self.pooling.output_width)
        self.projection = nn.Linear(self.pooling.output_width, settings.projection)
        self.head = nn.Sequential(nn.ReLU(), nn.Dropout(settings.dropout), nn.Linear(settings.projection, classes))

    def embed(self, batch: dict[str, Tensor]) -> Tensor:
        """Utterance vectors ``[B, projection]``."""
        states, mask = self.family.hidden_states(self.backbone, batch)
        return self.projection(self.norm(self.pooling(states, mask)))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits ``[B, classes]``."""
        return self.head(self.embed(batch))


_TOP = ("pooling.", "norm.", "projection.", "head.")


def save_tuned(encoder: UtteranceEncoder, directory: Path) -> None:
    """Write what differs from the base: everything on top, and the backbone's parameters that were trained.

    Adapters are merged first, so that reading needs no PEFT: the merged projections are written as they are.
    """
    from safetensors.torch import save_file

    trained = {name for name, p in encoder.named_parameters() if p.requires_grad and ".lora_" not in name}
    kept = {name: t for name, t in encoder.state_dict().items() if name.startswith(_TOP) or name in trained}
    kept.update(_merged_adapters(encoder))
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in kept.items()}, directory / "tuned.safetensors"
    )


def _merged_adapters(encoder: UtteranceEncoder) -> dict[str, Tensor]:
    """The projections that adapters sit on, with the adapters added in: base + scale · B A."""
    merged: dict[str, Tensor] = {}
    for name, module in encoder.named_modules():
        if hasattr(module, "lora_A") and hasattr(module, "get_delta_weight"):
            layer: Any = module
            merged[f"{name}.weight"] = layer.get_base_layer().weight + layer.get_delta_weight("default")
    return merged


def load_tuned(family: Family, settings: EncoderConfig, classes: int, file: Path) -> UtteranceEncoder:
    """Rebuild a fine-tuned encoder from its base and :func:`save_tuned`'s file, in evaluation mode."""
    from safetensors.torch import load_file

    encoder = UtteranceEncoder(family, settings, classes)
    missing, unexpected = encoder.load_state_dict(load_file(file), strict=False)
    absent = [name for name in missing if name.startswith(_TOP)]
    if absent or unexpected:
        raise ArtifactError(
            f"{file} does not fit its encoder: {(absent or unexpected)[0]} is {'missing' if absent else 'unknown'}."
        )
    return encoder.eval()
