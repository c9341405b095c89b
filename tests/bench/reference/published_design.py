"""The published design (arXiv 2602.23300) the plain way: padded batches, no masks in the layers, torch's own modules.

The same layers and sizes as the project's mixture at its defaults with two modalities, without dropout where the published
one has none. Written for comparison; its loss equals the project's where all dialogues of a batch are equally long.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mistere.config.mixture import MixtureConfig
from mistere.model.losses import expert_consistency_loss, focal_loss, supervised_contrastive_loss
from mistere.model.mixture.mixture import MixtureOfExperts


class Context(nn.Module):
    """``[B, T, D]`` to ``[B, T, 2 H]``."""

    def __init__(self, width: int, config: MixtureConfig) -> None:
        super().__init__()
        hidden = config.hidden
        self.convolutions = nn.ModuleList(nn.Conv1d(width, 2 * hidden, k, padding=k // 2) for k in config.kernels)
        self.gru = nn.GRU(2 * hidden, hidden, config.gru_layers, batch_first=True, bidirectional=True)
        self.skip = nn.Linear(width, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        turns = x.transpose(1, 2)
        mixed = sum(convolution(turns).relu() for convolution in self.convolutions)
        return self.gru(mixed.transpose(1, 2))[0] + self.skip(x)  # type: ignore[union-attr]


class Attention(nn.Module):
    """Queries ``[B, T, D]`` over keys ``[B, T, D]``, residual, LayerNorm."""

    def __init__(self, config: MixtureConfig) -> None:
        super().__init__()
        width, inner = config.fusion_width, config.attention_width
        self.heads = config.attention_heads
        self.query, self.key, self.value = (nn.Linear(width, inner) for _ in range(3))
        self.output = nn.Linear(inner, width)
        self.attention_dropout = nn.Dropout(config.attention_dropout)
        self.dropout = nn.Dropout(config.fusion_dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, keys: Tensor) -> Tensor:
        query, key, value = (
            layer(rows).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, rows in ((self.query, x), (self.key, keys), (self.value, keys))
        )
        weights = (query @ key.transpose(2, 3) / key.shape[-1] ** 0.5).softmax(-1)
        answer = (self.attention_dropout(weights) @ value).transpose(1, 2).flatten(2)
        return self.norm(x + self.dropout(self.output(answer)))


class PublishedDesign(nn.Module):
    """Speech expert, text expert, cross-modal expert and gate, on padded batches."""

    def __init__(self, config: MixtureConfig, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        self.config = config
        width = config.fusion_width
        self.context = nn.ModuleList(Context(d, config) for d in widths)
        self.outputs = nn.ModuleList(nn.Linear(2 * config.hidden, classes) for _ in widths)
        self.projections = nn.ModuleList(nn.Linear(d, width) for d in widths)
        self.cross = nn.ModuleList(
            nn.ModuleList(Attention(config) for _ in widths) for _ in range(config.fusion_blocks)
        )
        self.own = nn.ModuleList(nn.ModuleList(Attention(config) for _ in widths) for _ in range(config.fusion_blocks))
        self.skips = nn.ModuleList(nn.Linear(width, width) for _ in widths)
        self.norm = nn.LayerNorm(2 * width)
        self.hidden = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(config.fusion_dropout)
        self.fused = nn.Linear(width, classes)
        self.gate = nn.Sequential(
            nn.Linear(3 * classes, config.gate_hidden), nn.ReLU(), nn.Linear(config.gate_hidden, 3)
        )

    def loss(self, speech: Tensor, text: Tensor, labels: Tensor) -> Tensor:
        """The training loss of ``[B, T, D]`` inputs and ``[B, T]`` labels, padding and all."""
        config = self.config
        inputs = (speech, text)
        answers = [output(context(x)) for context, output, x in zip(self.context, self.outputs, inputs, strict=True)]
        first = [projection(x) for projection, x in zip(self.projections, inputs, strict=True)]
        one, other = first
        for cross, own in zip(self.cross, self.own, strict=True):
            one, other = cross[0](one, other), cross[1](other, one)  # type: ignore[index]
            one, other = own[0](one, one), own[1](other, other)  # type: ignore[index]
        views = [x + skip(start) for x, skip, start in zip((one, other), self.skips, first, strict=True)]
        fused = self.fused(self.dropout(self.hidden(self.norm(torch.cat(views, -1))).relu()))
        experts = torch.stack([*answers, fused], dim=2)
        weights = (self.gate(experts.flatten(2)) / config.gate_temperature).softmax(-1)
        logits = (weights[..., None] * experts).sum(2)
        flat = labels.flatten()
        total = focal_loss(logits.flatten(0, 1), flat, config.focal_gamma)
        for index in range(3):
            total = total + focal_loss(experts[:, :, index].flatten(0, 1), flat, config.focal_gamma)
        total = total + config.contrastive_weight * supervised_contrastive_loss(
            torch.cat([view.flatten(0, 1) for view in views]), torch.cat([flat, flat]), config.contrastive_temperature
        )
        everyone = torch.ones(len(flat), 3, dtype=torch.bool)
        return total + config.consistency_weight * expert_consistency_loss(experts.flatten(0, 1), everyone)

    def copy_from(self, mixture: MixtureOfExperts) -> None:
        """Take the weights of the project's mixture."""
        theirs = dict(mixture.named_parameters())
        pairs: list[tuple[nn.Parameter, Tensor]] = []

        def take(module: nn.Module, prefix: str) -> None:
            pairs.extend((own, theirs[f"{prefix}.{name}"]) for name, own in module.named_parameters())

        for index, name in enumerate(mixture.modalities):
            context, prefix = self.context[index], f"unimodal.{name}.context"
            for j, convolution in enumerate(context.convolutions):  # type: ignore[arg-type]
                out, width, kernel = convolution.weight.shape
                weight = theirs[f"{prefix}.convolutions.{j}.weight"].view(out, kernel, width).transpose(1, 2)
                pairs += [(convolution.weight, weight), (convolution.bias, theirs[f"{prefix}.convolutions.{j}.bias"])]
            take(context.gru, f"{prefix}.gru.gru")  # type: ignore[arg-type]
            take(context.skip, f"{prefix}.skip")  # type: ignore[arg-type]
            take(self.outputs[index], f"unimodal.{name}.output")
            take(self.projections[index], f"cross_modal.projections.{index}")
            take(self.skips[index], f"cross_modal.skips.{index}")
            for block in range(self.config.fusion_blocks):
                for kind, layers in (("cross", self.cross), ("own", self.own)):
                    layer, place = layers[block][index], f"cross_modal.blocks.{block}.{kind}.{index}"  # type: ignore[index]
                    for part in ("query", "key", "value", "output"):
                        take(getattr(layer, part), f"{place}.attention.{part}")
                    take(layer.norm, f"{place}.norm")
        take(self.norm, "cross_modal.norm")
        take(self.hidden, "cross_modal.hidden")
        take(self.fused, "cross_modal.output")
        take(self.gate, "gate.layers")
        with torch.no_grad():
            for own, other in pairs:
                own.copy_(other)


def padded(dialogues: Sequence[np.ndarray]) -> Tensor:
    """Matrices ``[n, D]`` as ``[B, T, D]``, zero where there is no turn."""
    longest = max(len(rows) for rows in dialogues)
    batch = torch.zeros(len(dialogues), longest, *dialogues[0].shape[1:], dtype=torch.as_tensor(dialogues[0]).dtype)
    for index, rows in enumerate(dialogues):
        batch[index, : len(rows)] = torch.as_tensor(rows)
    return batch


def step(model: PublishedDesign, optimizer: torch.optim.Optimizer, batch: Sequence[Tensor], clip: float) -> None:
    """One training step as published."""
    optimizer.zero_grad()
    model.loss(*batch).backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
