"""A transformer's layers as torch's own ``nn.TransformerEncoderLayer``: on a CPU one operation each, without a gradient.

``transformers`` computes a layer in some forty operations, which for one short utterance take as long as the products, and
queries, keys and values in three products where one does. The weights are the same tensors: nothing is held twice. Attention
keeps all its scores at once here, so beyond :data:`MOST_POSITIONS` the backbone's own layers are faster, and are used.
A convolution over time is a product here: oneDNN's gets ready for each new length, which every utterance has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

MOST_POSITIONS = 512
"""Positions of the longest in a batch up to which a fused layer is at least as fast (10 s of speech)."""


@dataclass(frozen=True)
class LayerParts:
    """What a transformer layer consists of, whatever its modules are called.

    Attributes:
        query, key, value, output: linear layers of the attention; a bias may be missing.
        expand, contract: linear layers of the feed-forward part.
        attention_norm, feed_norm: LayerNorms.
    """

    query: Any
    key: Any
    value: Any
    output: Any
    expand: Any
    contract: Any
    attention_norm: Any
    feed_norm: Any


@torch.no_grad()
def fused_layer(parts: LayerParts, heads: int, *, norm_first: bool) -> nn.TransformerEncoderLayer:
    """One layer in one operation, on the very weights of ``parts``; exact GELU between the feed-forward layers.

    Args:
        parts: of a layer in float32 on a CPU, in evaluation mode. Its queries, keys and values become parts of one tensor.
        heads: of the attention.
        norm_first: whether LayerNorm stands before attention and feed-forward (Whisper) or after their residual (BERT).
    """
    inner, width = parts.expand.weight.shape
    with torch.device("meta"):
        layer = nn.TransformerEncoderLayer(
            width,
            heads,
            inner,
            0.0,
            "gelu",
            float(parts.feed_norm.eps),
            batch_first=True,
            norm_first=norm_first,
        )
    projections = (parts.query, parts.key, parts.value)
    joined = torch.cat([one.weight for one in projections])
    for one, rows in zip(projections, joined.chunk(3), strict=True):
        one.weight = _fixed(rows)
    attention: Any = layer.self_attn
    attention.in_proj_weight = _fixed(joined)
    attention.in_proj_bias = _fixed(torch.cat([_bias(one) for one in projections]))
    for target, source in (
        (attention.out_proj, parts.output),
        (layer.linear1, parts.expand),
        (layer.linear2, parts.contract),
        (layer.norm1, parts.attention_norm),
        (layer.norm2, parts.feed_norm),
    ):
        target.weight, target.bias = _fixed(source.weight), _fixed(_bias(source))
    return layer.eval()


class FusedConvolution(nn.Module):
    """A convolution over time as one product: ``[B, T, D]`` to ``[B, T', O]``, zero beyond the ends.

    Args:
        convolution: in float32 on a CPU; its weights become a view of this one's.
    """

    @torch.no_grad()
    def __init__(self, convolution: nn.Conv1d) -> None:
        super().__init__()
        (self.size,), (self.stride,) = convolution.kernel_size, convolution.stride
        self.margin = int(convolution.padding[0])
        outputs, inputs, _ = convolution.weight.shape
        self.weight = _fixed(convolution.weight.transpose(1, 2).reshape(outputs, -1))
        self.bias = _fixed(_bias(convolution))
        convolution.weight = _fixed(self.weight.view(outputs, self.size, inputs).transpose(1, 2))

    def forward(self, rows: Tensor) -> Tensor:
        """What the convolution says of rows; each window is a view of its rows, which lie behind one another."""
        padded = nn.functional.pad(rows, (0, 0, self.margin, self.margin))
        batch, length, width = padded.shape
        count = (length - self.size) // self.stride + 1
        windows = padded.as_strided((batch, count, self.size * width), (length * width, self.stride * width, 1))
        return nn.functional.linear(windows, self.weight, self.bias)


def fused_states(layers: Sequence[nn.Module], states: Tensor, mask: Tensor) -> list[Tensor]:
    """Every layer's states ``[B, T, D]`` from the input up.

    Args:
        layers: fused ones.
        states: the first layer's input ``[B, T, D]``.
        mask: real positions ``[B, T]``.
    """
    padding = None if bool(mask.all()) else ~mask
    every = [states]
    for layer in layers:
        every.append(layer(every[-1], src_key_padding_mask=padding))
    return every


def _fixed(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def _bias(module: Any) -> Tensor:
    bias: Tensor | None = module.bias
    return module.weight.new_zeros(len(module.weight)) if bias is None else bias
