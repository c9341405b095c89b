"""A transformer's layers in one operation each: the one that ``nn.TransformerEncoderLayer`` takes without a gradient.

``transformers`` computes a layer in some forty operations, which for one short utterance take as long as the products, and
queries, keys and values in three products where one does. It is called here without the module around it, whose own checks
take twice as long as the call. The weights are the same tensors: nothing is held twice. Attention keeps all its scores at
once, so beyond :data:`MOST_POSITIONS` the backbone's own layers are faster, and are used. A convolution over time is a product:
oneDNN's gets ready for each new length, and every utterance has its own.
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
        expand, contract: linear layers of the feed-forward part, exact GELU between them.
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


class FusedLayer:
    """One layer on the very weights of its parts: states ``[B, T, D]`` to ``[B, T, D]``.

    Args:
        parts: of a layer in float32 on a CPU. Its queries', keys' and values' weights become parts of one tensor.
        heads: of the attention, an even number.
        norm_first: whether LayerNorm stands before attention and feed-forward (Whisper) or after their residual (BERT).
    """

    @torch.no_grad()
    def __init__(self, parts: LayerParts, heads: int, *, norm_first: bool) -> None:
        projections = (parts.query, parts.key, parts.value)
        joined = torch.cat([one.weight for one in projections])
        for one, rows in zip(projections, joined.chunk(3), strict=True):
            one.weight = nn.Parameter(rows, requires_grad=False)
        plain = (parts.output, parts.attention_norm, parts.feed_norm, parts.expand, parts.contract)
        output, *others = [(one.weight.detach(), _bias(one)) for one in plain]
        attention = [joined, torch.cat([_bias(one) for one in projections]), *output]
        rest = [tensor for pair in others for tensor in pair]
        self.weights = attention + rest
        settings = (True, norm_first, float(parts.feed_norm.eps))  # True: GELU, not ReLU
        self._arguments: tuple[Any, ...] = (joined.shape[1], heads, *attention, *settings, *rest)

    def __call__(self, states: Tensor, padding: Tensor | None) -> Tensor:
        """The layer's answer; ``padding`` ``[B, T]`` marks positions that nobody sees."""
        masked = () if padding is None else (padding, 1)
        return torch._transformer_encoder_layer_fwd(states, *self._arguments, *masked)


class FusedConvolution:
    """A convolution over time as one product: ``[B, T, D]`` to ``[B, T', O]``, zero beyond the ends.

    Args:
        convolution: in float32 on a CPU; its weights become a view of this one's.
    """

    @torch.no_grad()
    def __init__(self, convolution: nn.Conv1d) -> None:
        (self.size,), (self.stride,) = convolution.kernel_size, convolution.stride
        self.margin = int(convolution.padding[0])
        outputs, inputs, _ = convolution.weight.shape
        weight = convolution.weight.transpose(1, 2).reshape(outputs, -1)
        self.weights = [weight, _bias(convolution)]
        convolution.weight = nn.Parameter(weight.view(outputs, self.size, inputs).transpose(1, 2), requires_grad=False)

    def __call__(self, rows: Tensor) -> Tensor:
        """What the convolution says of rows; each window is a view of its rows, which lie behind one another."""
        padded = nn.functional.pad(rows, (0, 0, self.margin, self.margin))
        batch, length, width = padded.shape
        count = (length - self.size) // self.stride + 1
        windows = padded.as_strided((batch, count, self.size * width), (length * width, self.stride * width, 1))
        return nn.functional.linear(windows, *self.weights)


def fused_states(layers: Sequence[FusedLayer], states: Tensor, mask: Tensor) -> list[Tensor]:
    """Every layer's states ``[B, T, D]`` from the input up.

    Args:
        layers: from bottom to top.
        states: the first layer's input ``[B, T, D]``.
        mask: real positions ``[B, T]``.
    """
    padding = None if bool(mask.all()) else ~mask
    every = [states]
    for layer in layers:
        every.append(layer(every[-1], padding))
    return every


def _bias(module: Any) -> Tensor:
    bias: Tensor | None = module.bias
    return module.weight.new_zeros(len(module.weight)) if bias is None else bias.detach()
