"""The published mixture (arXiv 2602.23300), written from its equations with torch's own modules on padded batches.

It imports nothing of the project, so that a comparison with the project's mixture (``tests/unit/model/test_published_design.py``)
is independent. Without a mask it computes what the authors' training computes: recurrence, attention, contrastive and
consistency terms see the padding, and the focal mean divides by it. With a mask, padding has no effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

PADDING = -1
"""The label of a padded turn."""
SPEECH, TEXT = "speech", "text"
MODALITIES = (SPEECH, TEXT)
EXPERTS = (SPEECH, TEXT, "cross_modal")


@dataclass(frozen=True)
class Published:
    """Sizes and settings; the defaults are the published ones.

    Attributes:
        width: of the embeddings, of each modality.
        context: H of each direction of the GRU.
        fusion: width of the cross-modal expert.
        attention: width of the heads together.
    """

    classes: int = 6
    width: tuple[int, int] = (2048, 2048)
    context: int = 512
    layers: int = 3
    kernels: tuple[int, ...] = (1, 3, 5)
    fusion: int = 1024
    blocks: int = 4
    attention: int = 120
    heads: int = 3
    attention_dropout: float = 0.1
    dropout: float = 0.5
    eps: float = 1e-6
    gate: int = 10
    gate_temperature: float = 2.0
    gamma: float = 3.0
    contrastive: float = 2.0
    tau: float = 1.0
    consistency: float = 0.1
    learning_rate: float = 1e-5
    clip: float = 1.0


class ContextExpert(nn.Module):
    """One modality: convolutions over turns, GRU, skip of the input, classifier."""

    def __init__(self, width: int, size: Published) -> None:
        super().__init__()
        wide = 2 * size.context
        self.convolutions = nn.ModuleList(nn.Conv1d(width, wide, k, padding=k // 2) for k in size.kernels)
        self.gru = nn.GRU(wide, size.context, size.layers, batch_first=True, bidirectional=True)
        self.skip = nn.Linear(width, wide)
        self.classifier = nn.Linear(wide, size.classes)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """``[B, T, D]`` to logits ``[B, T, C]``."""
        over_turns = x.transpose(1, 2)
        summed = torch.stack([functional.relu(convolution(over_turns)) for convolution in self.convolutions]).sum(0)
        sequence = summed.transpose(1, 2)
        if mask is None:
            states, _ = self.gru(sequence)
        else:
            packed = pack_padded_sequence(sequence, mask.sum(1).cpu(), batch_first=True, enforce_sorted=False)
            states, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=x.shape[1])
        logits: Tensor = self.classifier(states + self.skip(x))
        return logits


class Attention(nn.Module):
    """Linear layers to the heads' width, multi-head attention there, linear layer back, dropout, residual, LayerNorm."""

    def __init__(self, size: Published) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(size.fusion, size.attention) for _ in range(3))
        self.heads = nn.MultiheadAttention(size.attention, size.heads, dropout=size.attention_dropout, batch_first=True)
        self.back = nn.Linear(size.attention, size.fusion)
        self.dropout = nn.Dropout(size.dropout)
        self.norm = nn.LayerNorm(size.fusion, eps=size.eps)

    def forward(self, x: Tensor, keys: Tensor, mask: Tensor | None) -> Tensor:
        padding = None if mask is None else ~mask
        seen, _ = self.heads(
            self.query(x), self.key(keys), self.value(keys), key_padding_mask=padding, need_weights=False
        )
        normed: Tensor = self.norm(x + self.dropout(self.back(seen)))
        return normed


class Block(nn.Module):
    """Co-attention of the two modalities, both from the block's input, then self-attention."""

    def __init__(self, size: Published) -> None:
        super().__init__()
        self.cross = nn.ModuleDict({name: Attention(size) for name in MODALITIES})
        self.own = nn.ModuleDict({name: Attention(size) for name in MODALITIES})

    def forward(self, speech: Tensor, text: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        speech, text = self.cross[SPEECH](speech, text, mask), self.cross[TEXT](text, speech, mask)
        return self.own[SPEECH](speech, speech, mask), self.own[TEXT](text, text, mask)


class CrossModalExpert(nn.Module):
    """Projections, blocks, skips of the raw inputs; the representations concatenated, text first, to logits."""

    def __init__(self, size: Published) -> None:
        super().__init__()
        widths = dict(zip(MODALITIES, size.width, strict=True))
        self.projections = nn.ModuleDict({name: nn.Linear(width, size.fusion) for name, width in widths.items()})
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.blocks))
        self.skips = nn.ModuleDict({name: nn.Linear(width, size.fusion) for name, width in widths.items()})
        self.norm = nn.LayerNorm(2 * size.fusion, eps=size.eps)
        self.hidden = nn.Linear(2 * size.fusion, size.fusion)
        self.classifier = nn.Linear(size.fusion, size.classes)

    def forward(self, speech: Tensor, text: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Logits ``[B, T, C]`` and the representations of speech and text ``[B, T, F]``."""
        one, other = self.projections[SPEECH](speech), self.projections[TEXT](text)
        for block in self.blocks:
            one, other = block(one, other, mask)
        one, other = one + self.skips[SPEECH](speech), other + self.skips[TEXT](text)
        both = self.norm(torch.cat([other, one], dim=-1))
        return self.classifier(functional.relu(self.hidden(both))), one, other


@dataclass(frozen=True)
class PublishedOutput:
    """Logits ``[B, T, C]``, the experts' ``[B, T, 3, C]``, gate weights ``[B, T, 3]``, representations ``[B, T, F]``."""

    logits: Tensor
    expert_logits: Tensor
    weights: Tensor
    speech: Tensor
    text: Tensor


class PublishedDesign(nn.Module):
    """The whole model."""

    def __init__(self, size: Published) -> None:
        super().__init__()
        self.size = size
        self.unimodal = nn.ModuleDict(
            {name: ContextExpert(width, size) for name, width in zip(MODALITIES, size.width, strict=True)}
        )
        self.cross_modal = CrossModalExpert(size)
        self.gate = nn.Sequential(nn.Linear(3 * size.classes, size.gate), nn.ReLU(), nn.Linear(size.gate, 3))

    def forward(self, speech: Tensor, text: Tensor, mask: Tensor | None = None) -> PublishedOutput:
        """Predict ``[B, T, D]``; ``mask`` ``[B, T]`` is True at real turns, and None treats all turns as real."""
        fused, one, other = self.cross_modal(speech, text, mask)
        alone = [self.unimodal[name](x, mask) for name, x in ((SPEECH, speech), (TEXT, text))]
        experts = torch.stack([*alone, fused], dim=2)
        weights = functional.softmax(self.gate(experts.flatten(2)) / self.size.gate_temperature, dim=-1)
        logits = torch.einsum("bte,btec->btc", weights, experts)
        return PublishedOutput(logits, experts, weights, one, other)

    def losses(self, output: PublishedOutput, labels: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        """The terms of the training loss, each with its weight; they add up to the loss.

        Args:
            output: of the batch.
            labels: ``[B, T]``, :data:`PADDING` at padded turns.
            mask: as in :meth:`forward`.
        """
        size = self.size
        real = torch.ones_like(labels, dtype=torch.bool) if mask is None else mask
        terms = {"mixture": focal(output.logits[real], labels[real], size.gamma)}
        for index, name in enumerate(EXPERTS):
            terms[name] = focal(output.expert_logits[real][:, index], labels[real], size.gamma)
        views = torch.cat([output.speech[real], output.text[real]])
        terms["contrastive"] = size.contrastive * contrastive(views, labels[real].repeat(2), size.tau)
        terms["consistency"] = size.consistency * consistency(output.expert_logits[real], len(labels))
        return terms


def focal(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """Mean of ``(1 − p)^γ · −log p`` over ``[N, C]``; padded turns add nothing, and count in the mean."""
    cross_entropy = functional.cross_entropy(logits, labels, ignore_index=PADDING, reduction="none")
    return ((1 - torch.exp(-cross_entropy)) ** gamma * cross_entropy).mean()


def contrastive(views: Tensor, labels: Tensor, tau: float) -> Tensor:
    """Supervised contrastive loss of ``[M, F]``: ``−1/|P(i)| Σ_{p ∈ P(i)} log (exp(z_i·z_p/τ) / Σ_{a ≠ i} exp(z_i·z_a/τ))``."""
    unit = functional.normalize(views, dim=-1)
    similarity = unit @ unit.T / tau
    others = 1 - torch.eye(len(unit))
    log_ratio = similarity - torch.log((similarity.exp() * others).sum(1, keepdim=True))
    positives = (labels[:, None] == labels[None, :]) * others
    return -((log_ratio * positives).sum(1) / positives.sum(1)).mean()


def consistency(expert_logits: Tensor, dialogues: int) -> Tensor:
    """Mean over pairs of experts of the symmetric KL divergence, summed over ``[N, 3, C]`` and divided by the dialogues."""
    log_p = functional.log_softmax(expert_logits, dim=-1)
    p = log_p.exp()
    pairs = [(0, 1), (0, 2), (1, 2)]
    total = torch.zeros(())
    for i, j in pairs:
        total = total + (p[:, i] * (log_p[:, i] - log_p[:, j])).sum() + (p[:, j] * (log_p[:, j] - log_p[:, i])).sum()
    return total / len(pairs) / dialogues


def padded(dialogues: Sequence[np.ndarray], value: float = 0) -> Tensor:
    """Arrays ``[n, ...]`` as ``[B, T, ...]``, with ``value`` where there is no turn."""
    return nn.utils.rnn.pad_sequence(
        [torch.as_tensor(rows) for rows in dialogues], batch_first=True, padding_value=value
    )


def step(
    model: PublishedDesign, optimizer: torch.optim.Optimizer, batch: Sequence[Tensor], mask: Tensor | None = None
) -> Tensor:
    """Run one training step on speech, text and labels; returns the loss before it."""
    speech, text, labels = batch
    loss = torch.stack(list(model.losses(model(speech, text, mask), labels, mask).values())).sum()
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), model.size.clip)
    optimizer.step()
    return loss.detach()
