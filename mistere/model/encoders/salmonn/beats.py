"""BEATs (Chen et al., arXiv 2212.09058): a transformer on patches of mel filter banks, which hears more than speech.

The names of the parameters are those of the published checkpoints. It is used frozen and has no dropout.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from mistere.model.encoders.salmonn.filter_banks import BANDS


class BeatsConfig(PreTrainedConfig):
    """Sizes of BEATs, under the names of the configuration in a published checkpoint; the defaults are those of its base model."""

    model_type = "salmonn_beats"

    embed_dim: int = 512
    input_patch_size: int = 16
    conv_bias: bool = False
    encoder_layers: int = 12
    encoder_embed_dim: int = 768
    encoder_ffn_embed_dim: int = 3072
    encoder_attention_heads: int = 12
    conv_pos: int = 128
    conv_pos_groups: int = 16
    num_buckets: int = 320
    max_distance: int = 800


class Beats(nn.Module):
    """Filter banks in, states of their patches out: time by time, and of each time from the lowest frequency to the highest."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self._patch = config.input_patch_size
        self.patch_embedding = nn.Conv2d(1, config.embed_dim, self._patch, stride=self._patch, bias=config.conv_bias)
        self.layer_norm = nn.LayerNorm(config.embed_dim)
        self.post_extract_proj = nn.Linear(config.embed_dim, config.encoder_embed_dim)
        self.encoder = BeatsEncoder(config)

    def forward(self, banks: Tensor, heard: Tensor) -> tuple[Tensor, Tensor]:
        """States ``[B, S, D]`` of the whole patches of an utterance and their mask ``[B, S]``.

        Args:
            banks: normalised filter banks ``[B, T, 128]``, T at least a patch; S is 8 patches for each 16 of them.
            heard: ``[B, T]``, False at padding.
        """
        patches = self.patch_embedding(banks[:, None].to(self.patch_embedding.weight.dtype))
        times, per_time = patches.shape[2], BANDS // self._patch
        mask = heard[:, : times * self._patch].unflatten(1, (times, self._patch)).all(2)
        mask = mask.repeat_interleave(per_time, dim=1)
        states = self.post_extract_proj(self.layer_norm(patches.flatten(2).transpose(1, 2)))
        return self.encoder(states, mask), mask


class BeatsEncoder(nn.Module):
    """Convolutional position embedding and the transformer layers."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.pos_conv = nn.ModuleList([PositionConvolution(config)])
        self.layer_norm = nn.LayerNorm(config.encoder_embed_dim)
        self.layers = nn.ModuleList([BeatsLayer(config, first=number == 0) for number in range(config.encoder_layers)])
        self._buckets, self._farthest = config.num_buckets, config.max_distance

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """States ``[B, S, D]`` of states ``[B, S, D]`` and their mask ``[B, S]``; they are undefined at padding."""
        states = states * mask[..., None]
        states = self.layer_norm(states + self.pos_conv[0](states))
        place = torch.arange(states.shape[1], device=states.device)
        buckets = position_buckets(place[None, :] - place[:, None], self._buckets, self._farthest)
        table = self.layers[0].self_attn.relative_attention_bias  # type: ignore[union-attr]
        bias = table(buckets).permute(2, 0, 1)  # type: ignore[operator]
        padding = torch.zeros(mask.shape, dtype=states.dtype, device=states.device)
        padding = padding.masked_fill(~mask, torch.finfo(states.dtype).min / 2)[:, None, None, :]
        for layer in self.layers:
            states = layer(states, bias, padding)
        return states


class PositionConvolution(nn.Module):
    """A grouped convolution over positions with normalised weights (Salimans and Kingma, arXiv 1602.07868)."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        width, self._groups = config.encoder_embed_dim, config.conv_pos_groups
        kernel = config.conv_pos
        self.weight_g = nn.Parameter(torch.ones(1, 1, kernel))
        self.weight_v = nn.Parameter(torch.randn(width, width // self._groups, kernel))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, states: Tensor) -> Tensor:
        """``[B, S, D]`` of ``[B, S, D]``."""
        weight = self.weight_g * self.weight_v / self.weight_v.norm(dim=(0, 1), keepdim=True)
        kernel = weight.shape[2]
        embedded = nn.functional.conv1d(
            states.transpose(1, 2), weight, self.bias, padding=kernel // 2, groups=self._groups
        )
        return nn.functional.gelu(embedded[:, :, : states.shape[1]]).transpose(
            1, 2
        )  # an even kernel gives one too many


class BeatsLayer(nn.Module):
    """A transformer layer with normalisation after each part (DeepNorm, Wang et al., arXiv 2203.00555)."""

    def __init__(self, config: BeatsConfig, *, first: bool) -> None:
        super().__init__()
        width, wide = config.encoder_embed_dim, config.encoder_ffn_embed_dim
        self.self_attn = GatedAttention(config, first=first)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, wide)
        self.fc2 = nn.Linear(wide, width)
        self.final_layer_norm = nn.LayerNorm(width)
        self._residual = (2 * config.encoder_layers) ** 0.25

    def forward(self, states: Tensor, bias: Tensor, padding: Tensor) -> Tensor:
        """``[B, S, D]`` of ``[B, S, D]``; the other arguments are those of the attention."""
        states = self.self_attn_layer_norm(self._residual * states + self.self_attn(states, bias, padding))
        return self.final_layer_norm(self._residual * states + self.fc2(nn.functional.gelu(self.fc1(states))))


class GatedAttention(nn.Module):
    """Attention whose relative position bias is scaled by a gate of each query (Chi et al., arXiv 2106.16138).

    The published code computes the scores in half precision with a factor of 32 taken out and put back, which changes nothing here.
    """

    def __init__(self, config: BeatsConfig, *, first: bool) -> None:
        super().__init__()
        width, self._heads = config.encoder_embed_dim, config.encoder_attention_heads
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        self.grep_linear = nn.Linear(width // self._heads, 8)
        self.grep_a = nn.Parameter(torch.ones(1, self._heads, 1, 1))
        if first:  # all layers share the first one's
            self.relative_attention_bias = nn.Embedding(config.num_buckets, self._heads)

    def forward(self, states: Tensor, bias: Tensor, padding: Tensor) -> Tensor:
        """``[B, S, D]`` of ``[B, S, D]``.

        Args:
            states: the states.
            bias: by relative position ``[H, S, S]``.
            padding: added to the scores, ``[B, 1, 1, S]``.
        """
        query, key, value = (
            projection(states).unflatten(2, (self._heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        scores = self.gate(query) * bias + padding
        attended = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=scores.to(query.dtype))
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def gate(self, query: Tensor) -> Tensor:
        """The factor of the position bias, ``[B, H, S, 1]`` of queries ``[B, H, S, D / H]``."""
        update, reset = self.grep_linear(query).unflatten(3, (2, 4)).sum(4).sigmoid().chunk(2, dim=3)
        return update * (reset * self.grep_a - 1) + 2


def position_buckets(distance: Tensor, buckets: int, farthest: int) -> Tensor:
    """The bucket of each relative position (Raffel et al., arXiv 1910.10683), in both directions.

    Args:
        distance: key's position minus the query's.
        buckets: number of buckets, half for each direction; of a half, one half for near positions, each its own.
        farthest: distance from which on all share a bucket; buckets grow exponentially up to it.
    """
    half = buckets // 2
    near = half // 2
    size = distance.abs()
    grown = (size.clamp(min=1).float() / near).log() / math.log(farthest / near) * (half - near)
    far = (near + grown).long().clamp(max=half - 1)
    return (distance > 0).long() * half + torch.where(size < near, size, far)
