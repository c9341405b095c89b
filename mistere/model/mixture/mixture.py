"""The mixture: one expert per modality, a cross-modal expert, and a gate that weights them for each utterance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from mistere.config.mixture import MixtureConfig, known
from mistere.model.losses import expert_consistency_loss, focal_loss, supervised_contrastive_loss
from mistere.model.mixture.context import ContextLayers
from mistere.model.mixture.dropout import Dropout
from mistere.model.mixture.fusion import CoAttentionFusion, FeedForwardFusion
from mistere.model.mixture.input_scaling import InputScaling
from mistere.model.mixture.packed_dialogues import PackedDialogues
from mistere.model.mixture.recurrence import BlockDiagonalGRU

CROSS_MODAL = "cross_modal"


@dataclass(frozen=True)
class DialogueBatch:
    """A batch of dialogues as N rows, one for each utterance, without padding.

    Attributes:
        inputs: per modality ``[N, D]``; rows of absent utterances are zero.
        present: per modality ``[N]``, True where the utterance has it.
        turns: the layout of the rows.
        labels: ``[N]``; None when predicting.
        labelled: ``[N]``, False where a turn is only context, whose label means nothing; None if all turns have a label.
    """

    inputs: Mapping[str, Tensor]
    present: Mapping[str, Tensor]
    turns: PackedDialogues
    labels: Tensor | None = None
    labelled: Tensor | None = None


@dataclass(frozen=True)
class MixtureOutput:
    """Output of the mixture.

    Attributes:
        logits: ``[N, C]``, the weighted sum of the experts'.
        expert_logits: ``[N, E, C]``; zero where an expert is absent.
        weights: ``[N, E]``; exactly 0 where an expert is absent, summing to 1.
        expert_present: ``[N, E]``.
        views: per modality ``[N, F]``, the cross-modal expert's representations.
    """

    logits: Tensor
    expert_logits: Tensor
    weights: Tensor
    expert_present: Tensor
    views: Mapping[str, Tensor]

    def only(self, rows: Tensor) -> MixtureOutput:
        """The output of the rows of a mask ``[N]``."""
        return MixtureOutput(
            self.logits[rows],
            self.expert_logits[rows],
            self.weights[rows],
            self.expert_present[rows],
            {name: view[rows] for name, view in self.views.items()},
        )


class UnimodalExpert(nn.Module):
    """Context layers and a linear classifier."""

    def __init__(self, config: MixtureConfig, width: int, classes: int) -> None:
        super().__init__()
        self.context = ContextLayers(
            width,
            config.hidden,
            config.gru_layers,
            config.kernels,
            known(config.context_dropout),
            skip_dropout=known(config.skip_dropout),
            causal=config.context_mode == "causal",
        )
        self.output = nn.Linear(2 * config.hidden, classes)

    def forward(self, states: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``[N, C]`` and the stream ``[N, 2 H]``, from the GRU's states ``[N, 2 H]`` and the rows ``[N, D]``."""
        stream = self.context.after(states, rows)
        return self.output(stream), stream


class Gate(nn.Module):
    """Experts' logits ``[N, E, C]`` to weights ``[N, E]``: softmax at a temperature over the present experts."""

    def __init__(self, config: MixtureConfig, experts: int, classes: int) -> None:
        super().__init__()
        self.temperature = config.gate_temperature
        self.layers = nn.Sequential(
            nn.Linear(experts * classes, config.gate_hidden), nn.ReLU(), nn.Linear(config.gate_hidden, experts)
        )

    def forward(self, expert_logits: Tensor, present: Tensor) -> Tensor:
        return _among_present(self.layers(expert_logits.flatten(1)).float() / self.temperature, present)


class MeanGate(nn.Module):
    """Equal weights for all present experts: a mixture without a gate, as a baseline."""

    def forward(self, expert_logits: Tensor, present: Tensor) -> Tensor:
        return _among_present(expert_logits.new_zeros(present.shape), present)


class FittedGate(nn.Module):
    """A gate that is fitted on dev after the training: weights from each expert's certainty, ``[N, E, C]`` to ``[N, E]``.

    An expert's score is a constant plus a factor times its certainty, one minus the normalised entropy of its prediction. Both are
    zero until :func:`mistere.model.mixture.gate_fit.fit_gate` sets them, which gives equal weights.

    Args:
        experts: E.
    """

    bias: Tensor
    slope: Tensor

    def __init__(self, experts: int) -> None:
        super().__init__()
        self.register_buffer("bias", torch.zeros(experts))
        self.register_buffer("slope", torch.zeros(experts))

    def forward(self, expert_logits: Tensor, present: Tensor) -> Tensor:
        return _among_present(self.bias + self.slope * certainty(expert_logits), present)


def certainty(expert_logits: Tensor) -> Tensor:
    """One minus the normalised entropy ``[N, E]`` of predictions ``[N, E, C]``: 0 for equal probabilities, 1 if one class has them all.

    It is not the confidence of :mod:`mistere.metrics.gate_trust`, the largest probability.
    """
    log_p = expert_logits.log_softmax(-1)
    return 1 + (log_p.exp() * log_p).sum(-1) / math.log(max(2, expert_logits.shape[-1]))


def _among_present(scores: Tensor, present: Tensor) -> Tensor:
    """Softmax ``[N, E]`` over the present experts; zeros if no expert is present."""
    none_present = ~present.any(-1, keepdim=True)
    return scores.masked_fill(~(present | none_present), float("-inf")).softmax(-1) * present


def _gate(config: MixtureConfig, experts: int, classes: int) -> nn.Module:
    if config.gate == "learned":
        return Gate(config, experts, classes)
    return FittedGate(experts) if config.gate == "fitted" else MeanGate()


def projections(config: MixtureConfig, dimensions: Mapping[str, int]) -> dict[str, int]:
    """Width of the projection of each modality that has one."""
    if config.projection == "auto":
        raise ValueError("mixture.projection is still 'auto'; resolve the settings for the data first")
    if isinstance(config.projection, int):
        return dict.fromkeys(dimensions, config.projection) if config.projection else {}
    return {name: width for name, width in config.projection.items() if name in dimensions}


def input_dropouts(config: MixtureConfig, dimensions: Mapping[str, int]) -> dict[str, float]:
    """Dropout of each modality's embeddings."""
    rates = config.input_dropout
    if isinstance(rates, dict):
        return {name: rates.get(name, 0.0) for name in dimensions}
    return dict.fromkeys(dimensions, known(rates))


class MixtureOfExperts(nn.Module):
    """The whole model.

    Args:
        config: sizes, fusion, loss weights.
        dimensions: input width of each modality; their order is the experts' order.
        classes: number of labels C.

    Attributes:
        recurrences: computes the recurrences of the unimodal experts together.
    """

    def __init__(self, config: MixtureConfig, dimensions: Mapping[str, int], classes: int) -> None:
        super().__init__()
        self.config, self.dimensions, self.classes = config, dict(dimensions), classes
        self.modalities = list(dimensions)
        self.experts = [*self.modalities, CROSS_MODAL]
        self.scaling = nn.ModuleDict(
            {name: InputScaling(d) for name, d in dimensions.items()} if config.standardise else {}
        )
        rates = input_dropouts(config, dimensions)
        self.input_dropout = nn.ModuleDict({name: Dropout(rate) for name, rate in rates.items()})
        projected = projections(config, dimensions)
        self.projections = nn.ModuleDict({name: nn.Linear(dimensions[name], d) for name, d in projected.items()})
        widths = [projected.get(name, d) for name, d in dimensions.items()]
        self.unimodal = nn.ModuleDict(
            {name: UnimodalExpert(config, d, classes) for name, d in zip(dimensions, widths, strict=True)}
        )
        self.recurrences: Callable[..., list[Tensor]] = BlockDiagonalGRU()
        fusion = CoAttentionFusion if config.fusion == "co_attention" else FeedForwardFusion
        self.cross_modal = fusion(config, widths, classes)
        self.gate = _gate(config, len(self.experts), classes)

    @cached_property
    def size(self) -> int:
        """Number of weights. Counting them takes as long as a tenth of a prediction."""
        return sum(weight.numel() for weight in self.parameters())

    def forward(self, batch: DialogueBatch) -> MixtureOutput:
        """Logits, experts' logits and gate weights of every utterance."""
        turns = batch.turns if self.config.context == "dialogue" else batch.turns.alone()
        present = [batch.present[name] for name in self.modalities]
        inputs = [self._input(name, batch) for name in self.modalities]
        experts: list[Any] = [self.unimodal[name] for name in self.modalities]
        mixed = [expert.context.before(x, turns) for expert, x in zip(experts, inputs, strict=True)]
        states = self.recurrences([expert.context.gru for expert in experts], mixed, turns)
        answers, streams = zip(
            *(expert(state, x) for expert, state, x in zip(experts, states, inputs, strict=True)), strict=True
        )
        fused, views = self.cross_modal(inputs, present, turns, streams)
        anything = turns.any_seen(torch.stack(present).any(0), causal=self.config.context_mode == "causal")
        expert_present = torch.stack([*present, anything], dim=-1)
        expert_logits = torch.stack([*answers, fused], dim=1).float() * expert_present[..., None]
        weights = self.gate(expert_logits, expert_present)
        logits = (weights[..., None] * expert_logits).sum(1)
        return MixtureOutput(
            logits, expert_logits, weights, expert_present, dict(zip(self.modalities, views, strict=True))
        )

    def _input(self, name: str, batch: DialogueBatch) -> Tensor:
        """Rows ``[N, D]`` of a modality, scaled and projected as configured; absent ones are zero."""
        rows, present = batch.inputs[name], batch.present[name]
        if name in self.scaling:
            rows = self.scaling[name](rows, present)
        rows = self.input_dropout[name](rows)
        if name in self.projections:
            rows = self.input_dropout[name](self.projections[name](rows)) * present[:, None]
        return rows

    def loss(self, batch: DialogueBatch, output: MixtureOutput, class_weights: Tensor | None = None) -> Tensor:
        """The training loss of a batch: focal on mixture and experts, contrastive, consistency.

        Turns without a label take part in none of its terms; without any label it is 0.

        Args:
            batch: a batch with labels.
            output: the model's output for it.
            class_weights: weight of each class in the focal losses ``[C]``; None for equal weights.
        """
        if batch.labels is None:
            raise ValueError("a loss needs labels")
        config, labels, presence = self.config, batch.labels, batch.present
        if batch.labelled is not None:
            if not batch.labelled.any():
                return output.logits.sum() * 0
            labels, output = labels[batch.labelled], output.only(batch.labelled)
            presence = {name: marks[batch.labelled] for name, marks in presence.items()}
        total = focal_loss(output.logits, labels, config.focal_gamma, class_weights)
        for index in range(len(self.experts)):
            present = output.expert_present[:, index]
            if present.any():
                logits = output.expert_logits[present, index]
                total = total + focal_loss(logits, labels[present], config.focal_gamma, class_weights)
        if config.contrastive_weight:
            marks = [presence[name] for name in self.modalities]
            views = torch.cat([output.views[name][mark] for name, mark in zip(self.modalities, marks, strict=True)])
            targets = torch.cat([labels[mark] for mark in marks])
            if len(targets) > 1:
                total = total + config.contrastive_weight * supervised_contrastive_loss(
                    views.float(), targets, config.contrastive_temperature
                )
        if config.consistency_weight:
            divergence = expert_consistency_loss(output.expert_logits, output.expert_present)
            if config.consistency_scale == "dialogue":
                divergence = divergence * (len(labels) / len(batch.turns.lengths))
            total = total + config.consistency_weight * divergence
        return total
