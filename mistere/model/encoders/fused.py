"""Fused transformer layers for inference in float32 on a CPU: one operation for each layer.

Why: ``transformers`` computes a layer in about forty operations. For one short utterance their overhead takes as long as the
matrix products. The kernel behind the fast path of ``nn.TransformerEncoderLayer`` computes the whole layer, with one product for
queries, keys and values. It is called directly, because the checks of the module around it take twice as long as the call.
A turn of a live
dialogue costs a quarter less (``mistere bench serving_speed``). Delete this module once ``transformers``
computes a layer as fast without gradients on a CPU, or torch removes the kernel (``torch._transformer_encoder_layer_fwd``).

The weights are shared with the backbone's modules, so they are held once. The kernel materialises all attention scores, so
batches longer than :data:`MOST_POSITIONS` use the backbone's own layers, which are faster there.

:class:`FusedConvolution` computes a convolution over time as one matrix product, because oneDNN prepares its convolution again
for each input length, and every utterance has its own length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

MOST_POSITIONS = 512
"""Length of a padded batch up to which a fused layer is at least as fast as the backbone's own (10 s of speech)."""


@dataclass(frozen=True)
class LayerParts:
    """The parts of a transformer layer, independent of the names of its modules.

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
    """One fused layer, ``[B, T, D]`` to ``[B, T, D]``, which shares the weights of its parts.

    Args:
        parts: modules of a layer in float32 on a CPU. The query, key and value weights become views of one tensor.
        heads: number of attention heads, even.
        norm_first: whether LayerNorm precedes attention and feed-forward (Whisper) or follows their residual (BERT).
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
        """The layer's output; ``padding`` ``[B, T]`` is True at positions to mask."""
        masked = () if padding is None else (padding, 1)
        return torch._transformer_encoder_layer_fwd(states, *self._arguments, *masked)


class FusedConvolution:
    """A zero-padded convolution over time as one matrix product: ``[B, T, D]`` to ``[B, T', O]``.

    Args:
        convolution: module in float32 on a CPU; its weight becomes a view of this object's.
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
        """The convolution's output; each window is a view of consecutive rows, so nothing is copied."""
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
