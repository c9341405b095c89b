"""The cross-modal expert's fusions: co-attention between modalities, or a small network on the context streams."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from mistere.config.mixture import MixtureConfig, known
from mistere.model.mixture.dropout import Dropout, dropout
from mistere.model.mixture.packed_dialogues import PackedDialogues


class MaskedAttention(nn.Module):
    """Multi-head attention within dialogues, with an inner width of its own: queries ``[N, D]`` over keys ``[N, D]``.

    Only the narrow queries, keys and values are padded. Rows that are not ``present`` ``[N]`` are masked as keys, and so are
    later turns if the attention is causal. The output of a query without any key is zero.

    With two projections, a linear layer of the inner width follows those to the inner width and precedes the one from it, as
    where ``torch.nn.MultiheadAttention`` stands between linear layers.
    """

    def __init__(
        self, width: int, inner: int, heads: int, dropout: float, *, projections: int = 1, causal: bool = False
    ) -> None:
        super().__init__()
        if inner % heads:
            raise ValueError(f"attention_width {inner} is not a multiple of attention_heads {heads}")
        self.heads, self.rate, self.causal = heads, dropout, causal
        two = projections == 2
        self.query, self.key, self.value = (
            nn.Sequential(nn.Linear(width, inner), _inner_projection(inner)) if two else nn.Linear(width, inner)
            for _ in range(3)
        )
        output = nn.Linear(inner, width)
        self.output = nn.Sequential(_inner_output(inner), output) if two else output

    def forward(
        self, queries: Tensor, keys: Sequence[Tensor], present: Sequence[Tensor], turns: PackedDialogues
    ) -> Tensor:
        def split(rows: Tensor) -> Tensor:
            return turns.pad(rows).unflatten(-1, (self.heads, -1)).transpose(1, 2)

        keys_, values = (torch.cat([split(layer(one)) for one in keys], dim=2) for layer in (self.key, self.value))
        visible = torch.cat([turns.pad(one) for one in present], dim=1)[:, None]
        if self.causal:
            visible = visible & turns.up_to.repeat(1, len(keys))
        some = visible.any(-1, keepdim=True)
        visible = visible | ~some  # softmax over no keys is 0/0; the result is zeroed below
        answer = self._attended(split(self.query(queries)), keys_, values, visible[:, None])
        some = some.expand(-1, answer.shape[2], -1)
        return self.output(turns.unpad(answer.transpose(1, 2)).flatten(1)) * turns.unpad(some)

    def _attended(self, queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor) -> Tensor:
        """Attention ``[B, H, T, W]`` of queries ``[B, H, T, W]`` over keys and values ``[B, H, K, W]``.

        In training with dropout on a CPU, torch's attention computes the same from single operations, with its slow random numbers.
        """
        if not self.training or not self.rate or queries.is_cuda:
            rate = self.rate if self.training else 0.0
            return functional.scaled_dot_product_attention(queries, keys, values, attn_mask=visible, dropout_p=rate)
        scores = (queries / math.sqrt(queries.shape[-1])) @ keys.transpose(-2, -1)
        weights = scores.masked_fill(~visible, float("-inf")).softmax(-1)
        return dropout(weights, self.rate).to(values.dtype) @ values


def _inner_projection(width: int) -> nn.Linear:
    """A layer initialised as the input projections of ``torch.nn.MultiheadAttention``, which are three in one matrix."""
    layer = nn.Linear(width, width)
    bound = math.sqrt(6 / (4 * width))
    nn.init.uniform_(layer.weight, -bound, bound)
    nn.init.zeros_(layer.bias)
    return layer


def _inner_output(width: int) -> nn.Linear:
    """A layer initialised as the output projection of ``torch.nn.MultiheadAttention``."""
    layer = nn.Linear(width, width)
    nn.init.zeros_(layer.bias)
    return layer


class AttentionLayer(nn.Module):
    """Attention, dropout, residual, LayerNorm: ``[N, D]`` to ``[N, D]``."""

    def __init__(self, config: MixtureConfig) -> None:
        super().__init__()
        width = config.fusion_width
        self.attention = MaskedAttention(
            width,
            config.attention_width,
            config.attention_heads,
            config.attention_dropout,
            projections=config.attention_projections,
            causal=config.context_mode == "causal",
        )
        self.dropout = Dropout(known(config.fusion_dropout))
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(
        self, stream: Tensor, keys: Sequence[Tensor], present: Sequence[Tensor], turns: PackedDialogues
    ) -> Tensor:
        return self.norm(stream + self.dropout(self.attention(stream, keys, present, turns)))


class FusionBlock(nn.Module):
    """Each modality attends to all others (co-attention), then to itself (self-attention)."""

    def __init__(self, config: MixtureConfig, modalities: int) -> None:
        super().__init__()
        self.cross = nn.ModuleList(AttentionLayer(config) for _ in range(modalities if modalities > 1 else 0))
        self.own = nn.ModuleList(AttentionLayer(config) for _ in range(modalities))

    def forward(self, streams: Sequence[Tensor], present: Sequence[Tensor], turns: PackedDialogues) -> list[Tensor]:
        if self.cross:
            streams = [
                layer(
                    stream,
                    [other for j, other in enumerate(streams) if j != i],
                    [mask for j, mask in enumerate(present) if j != i],
                    turns,
                )
                for i, (layer, stream) in enumerate(zip(self.cross, streams, strict=True))
            ]
        everyone = torch.ones_like(present[0])
        return [layer(stream, [stream], [everyone], turns) for layer, stream in zip(self.own, streams, strict=True)]


class CoAttentionFusion(nn.Module):
    """The cross-modal expert with co-attention.

    Each modality is projected to one width; blocks of co-attention and self-attention follow, plus a linear skip of the
    projection, or of the input itself (``fusion_skip``); the streams are concatenated → LayerNorm → Linear → ReLU → logits. An utterance that lacks a modality
    has a learned vector in that stream and is never a key for the others, so its prediction comes from the turns around it.

    Args:
        config: the mixture's section.
        widths: input width of each modality.
        classes: number of labels.
    """

    def __init__(self, config: MixtureConfig, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        width = config.fusion_width
        self.projections = nn.ModuleList(nn.Linear(d, width) for d in widths)
        self.missing = nn.ParameterList(nn.Parameter(torch.zeros(width)) for _ in widths)
        self.blocks = nn.ModuleList(FusionBlock(config, len(widths)) for _ in range(config.fusion_blocks))
        self.skips_input = config.fusion_skip == "input"
        self.skips = nn.ModuleList(nn.Linear(d if self.skips_input else width, width) for d in widths)
        self.norm = nn.LayerNorm(width * len(widths), eps=config.layer_norm_eps)
        self.hidden = nn.Linear(width * len(widths), width)
        self.dropout = Dropout(_output_dropout(config))
        self.output = nn.Linear(width, classes)

    def forward(
        self, inputs: Sequence[Tensor], present: Sequence[Tensor], turns: PackedDialogues, _context: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Logits ``[N, C]`` and each modality's representation ``[N, width]``."""
        projected = [
            torch.where(mask[:, None], projection(x), missing)
            for projection, missing, x, mask in zip(self.projections, self.missing, inputs, present, strict=True)
        ]
        streams = projected
        for block in self.blocks:
            streams = block(streams, present, turns)
        skipped = inputs if self.skips_input else projected
        views = [stream + skip(first) for stream, skip, first in zip(streams, self.skips, skipped, strict=True)]
        hidden = self.hidden(self.norm(torch.cat(views, dim=-1))).relu()
        return self.output(self.dropout(hidden)), views


class FeedForwardFusion(nn.Module):
    """The simple cross-modal expert: the unimodal context streams, concatenated, through one hidden layer."""

    def __init__(self, config: MixtureConfig, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        streams = 2 * config.hidden
        self.hidden = nn.Linear(streams * len(widths), config.fusion_width)
        self.dropout = Dropout(_output_dropout(config))
        self.output = nn.Linear(config.fusion_width, classes)

    def forward(
        self, _inputs: Sequence[Tensor], _present: Sequence[Tensor], _turns: PackedDialogues, context: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Logits ``[N, C]`` and the context streams ``[N, 2 H]`` themselves as the views."""
        hidden = self.hidden(torch.cat(list(context), dim=-1)).relu()
        return self.output(self.dropout(hidden)), list(context)


def _output_dropout(config: MixtureConfig) -> float:
    return known(config.fusion_dropout) if config.output_dropout is None else config.output_dropout
