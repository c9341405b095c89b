"""The mixture: one expert a modality, a cross-modal expert, and a gate that weighs them for each utterance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from components.core.config.mixture import MixtureConfig
from components.core.losses import expert_consistency_loss, focal_loss, supervised_contrastive_loss
from components.core.moe.context import ContextLayers
from components.core.moe.fusion import CoAttentionFusion, FeedForwardFusion

CROSS_MODAL = "cross_modal"


@dataclass(frozen=True)
class DialogueBatch:
    """Padded dialogues.

    Attributes:
        inputs: per modality ``[B, T, D]``; rows of absent utterances and padding are zero.
        present: per modality ``[B, T]``, True where the utterance has it.
        mask: ``[B, T]``, True where there is an utterance.
        labels: ``[B, T]``, any value at padding; None when predicting.
    """

    inputs: Mapping[str, Tensor]
    present: Mapping[str, Tensor]
    mask: Tensor
    labels: Tensor | None = None


@dataclass(frozen=True)
class MixtureOutput:
    """What the mixture says.

    Attributes:
        logits: ``[B, T, C]``, the weighted sum of the experts'.
        expert_logits: ``[B, T, E, C]``; zero where an expert is absent.
        weights: ``[B, T, E]``; exactly 0 where an expert is absent, summing to 1.
        expert_present: ``[B, T, E]``.
        views: per modality ``[B, T, F]``, the cross-modal expert's representations.
    """

    logits: Tensor
    expert_logits: Tensor
    weights: Tensor
    expert_present: Tensor
    views: Mapping[str, Tensor]


class UnimodalExpert(nn.Module):
    """Context layers and a linear classifier: ``[B, T, D]`` to logits ``[B, T, C]`` and the stream ``[B, T, 2 H]``."""

    def __init__(self, config: MixtureConfig, width: int, classes: int) -> None:
        super().__init__()
        self.context = ContextLayers(width, config.hidden, config.gru_layers, config.kernels, config.context_dropout)
        self.output = nn.Linear(2 * config.hidden, classes)

    def forward(self, inputs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        stream = self.context(inputs, mask)
        return self.output(stream), stream


class Gate(nn.Module):
    """Experts' logits ``[B, T, E, C]`` to weights ``[B, T, E]``: softmax at a temperature over the present experts."""

    def __init__(self, config: MixtureConfig, experts: int, classes: int) -> None:
        super().__init__()
        self.temperature = config.gate_temperature
        self.layers = nn.Sequential(
            nn.Linear(experts * classes, config.gate_hidden), nn.ReLU(), nn.Linear(config.gate_hidden, experts)
        )

    def forward(self, expert_logits: Tensor, present: Tensor) -> Tensor:
        scores = self.layers(expert_logits.flatten(2)) / self.temperature
        nobody = ~present.any(-1, keepdim=True)
        return scores.masked_fill(~(present | nobody), float("-inf")).softmax(-1) * present


class MixtureOfExperts(nn.Module):
    """The whole model.

    Args:
        config: sizes, fusion, loss weights.
        dimensions: input width of each modality; their order is the experts' order.
        classes: number of labels C.
    """

    def __init__(self, config: MixtureConfig, dimensions: Mapping[str, int], classes: int) -> None:
        super().__init__()
        self.config, self.dimensions, self.classes = config, dict(dimensions), classes
        self.modalities = list(dimensions)
        self.experts = [*self.modalities, CROSS_MODAL]
        widths = list(dimensions.values())
        self.unimodal = nn.ModuleDict({name: UnimodalExpert(config, d, classes) for name, d in dimensions.items()})
        fusion = CoAttentionFusion if config.fusion == "co_attention" else FeedForwardFusion
        self.cross_modal = fusion(config, widths, classes)
        self.gate = Gate(config, len(self.experts), classes)

    def forward(self, batch: DialogueBatch) -> MixtureOutput:
        """Logits, experts' logits and gate weights of every utterance."""
        inputs = [batch.inputs[name] for name in self.modalities]
        present = [batch.present[name] & batch.mask for name in self.modalities]
        answers, streams = zip(
            *(self.unimodal[name](x, batch.mask) for name, x in zip(self.modalities, inputs, strict=True)), strict=True
        )
        fused, views = self.cross_modal(inputs, present, batch.mask, streams)
        anything = torch.stack(present).any(0).any(1, keepdim=True) & batch.mask
        there = torch.stack([*present, anything], dim=-1)
        expert_logits = torch.stack([*answers, fused], dim=2) * there[..., None]
        weights = self.gate(expert_logits, there)
        logits = (weights[..., None] * expert_logits).sum(2)
        return MixtureOutput(logits, expert_logits, weights, there, dict(zip(self.modalities, views, strict=True)))

    def loss(self, batch: DialogueBatch) -> Tensor:
        """The training loss of a batch: focal on mixture and experts, contrastive, consistency."""
        if batch.labels is None:
            raise ValueError("a loss needs labels")
        config = self.config
        output = self(batch)
        labels = batch.labels[batch.mask]
        expert_logits, there = output.expert_logits[batch.mask], output.expert_present[batch.mask]
        total = focal_loss(output.logits[batch.mask], labels, config.focal_gamma)
        for index in range(len(self.experts)):
            chosen = there[:, index]
            if chosen.any():
                total = total + focal_loss(expert_logits[chosen, index], labels[chosen], config.focal_gamma)
        if config.contrastive_weight:
            marks = [batch.present[name] & batch.mask for name in self.modalities]
            views = torch.cat([output.views[name][mark] for name, mark in zip(self.modalities, marks, strict=True)])
            targets = torch.cat([batch.labels[mark] for mark in marks])
            if len(targets) > 1:
                total = total + config.contrastive_weight * supervised_contrastive_loss(
                    views, targets, config.contrastive_temperature
                )
        if config.consistency_weight:
            total = total + config.consistency_weight * expert_consistency_loss(expert_logits, there)
        return total
