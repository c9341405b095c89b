"""Whisper's encoder on utterances of their own length.

Whisper pads its input to 30 s. Computing only the positions that an utterance fills makes one of 3 s ten times cheaper
(``mistere bench extraction_speed``). Padding inside a batch is masked after each convolution and in every attention layer, so
the states of an utterance do not depend on the rest of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mistere.common.errors import UsageError
from mistere.common.parsing.documents import read_json
from mistere.model.encoders.families.family import Family, attention_bias, copy_model_files, pad_stack, save_half
from mistere.model.encoders.fused import MOST_POSITIONS, FusedConvolution, FusedLayer, LayerParts, fused_states
from mistere.model.encoders.inputs.power_spectrum import power_spectra
from mistere.model.encoders.lookup.checkpoint_size import BaseWeights
from mistere.model.encoders.preparation import Features
from mistere.model.encoders.pretrained import load_pretrained

_MARGIN = 400
"""Samples of silence appended to each utterance: more than half an analysis window, so the last frames do not depend on padding."""
_FRAME_SAMPLES = 160
_MOST_POOLED = 32


class Whisper(Family):
    """Log-mel frames at 100 Hz in, states at 50 Hz out."""

    name = "whisper"
    kind = "audio"
    lora_targets = ("q_proj", "v_proj")
    rate = 100.0
    unit = 2
    shortens = True
    graph_inputs = ("samples",)

    @classmethod
    def handles(cls, model_type: str) -> bool:
        return model_type == "whisper"

    @classmethod
    def export_base(cls, source: Path, target: Path) -> None:
        from safetensors.torch import save_file
        from transformers import WhisperFeatureExtractor, WhisperModel

        model: Any = load_pretrained(
            WhisperModel, source, source=str(source), dtype=torch.float32, optional=r"^decoder\."
        )
        target.mkdir(parents=True, exist_ok=True)
        model.config.save_pretrained(str(target))
        WhisperFeatureExtractor.from_pretrained(str(source), local_files_only=True).save_pretrained(str(target))
        save_file(
            {name: tensor.contiguous() for name, tensor in model.encoder.state_dict().items()},
            target / "model.safetensors",
        )

    @classmethod
    def base_weights(cls, model_type: str) -> BaseWeights:
        """The encoder, in float32."""
        return BaseWeights(names=r"^(?:model\.)?encoder\.", float32=True)

    @classmethod
    def write_random(cls, target: Path, seed: int, variant: str = "") -> None:
        from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

        torch.manual_seed(seed)
        config = WhisperConfig(
            vocab_size=8,
            num_mel_bins=16,
            d_model=32,
            encoder_layers=2,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            max_source_positions=1500,
            max_target_positions=8,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
        )
        target.mkdir(parents=True, exist_ok=True)
        WhisperModel(config).save_pretrained(str(target))
        WhisperFeatureExtractor(feature_size=16).save_pretrained(str(target))

    def load_backbone(self) -> nn.Module:
        from safetensors.torch import load_file
        from transformers import WhisperConfig
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        config = WhisperConfig.from_pretrained(str(self.directory), local_files_only=True)
        config._attn_implementation = "sdpa"
        with torch.device("meta"):
            encoder = WhisperEncoder(config)
        try:
            encoder.load_state_dict(load_file(self.directory / "model.safetensors"), strict=True, assign=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(
                f"encoder {self.settings.source}: its weights do not load with its config.json ({reason})."
            ) from error
        encoder.embed_positions.requires_grad_(False)
        return encoder.to(self.dtype).eval()

    def write_shortened(self, backbone: nn.Module, kept: Sequence[int], pooled: int, target: Path) -> None:
        encoder: Any = backbone
        encoder.layers = nn.ModuleList([encoder.layers[number] for number in kept])
        encoder.config.encoder_layers = len(kept)
        encoder.config.pooled_positions = pooled * self._pooled
        copy_model_files(self.directory, target, weights=False)
        encoder.config.save_pretrained(str(target))
        save_half(encoder, target)

    def layers(self, backbone: nn.Module) -> Sequence[nn.Module]:
        return list(backbone.layers)  # type: ignore[arg-type]

    def hidden_size(self, backbone: nn.Module) -> int:
        return int(backbone.config.d_model)  # type: ignore[union-attr, arg-type]

    def prepare(self, utterance: np.ndarray) -> Features:
        """Log-mel frames ``[T, mel]`` of mono samples at 16 kHz; T is a multiple of 2, and of a shortened encoder's pooled positions."""
        multiple = 2 * self._pooled
        longest = 2 * self._positions // multiple * multiple
        frames = log_mel(self._extractor, utterance, multiple * _FRAME_SAMPLES)[:longest]
        return {"frames": frames, "length": len(frames)}

    def collate(self, features: Sequence[Features]) -> dict[str, Tensor]:
        frames, mask = pad_stack([feature["frames"] for feature in features])
        return {"frames": frames, "frame_mask": mask}

    def fused_layers(self, backbone: nn.Module) -> Sequence[FusedLayer]:
        config: Any = backbone.config
        if config.activation_function != "gelu" or config.encoder_attention_heads % 2:
            return ()
        encoder: Any = backbone
        self._convolutions = (FusedConvolution(encoder.conv1), FusedConvolution(encoder.conv2))
        heads = config.encoder_attention_heads
        return [FusedLayer(_parts(layer), heads, norm_first=True) for layer in self.layers(backbone)]

    def hidden_states(self, backbone: nn.Module, batch: dict[str, Tensor]) -> tuple[list[Tensor], Tensor]:
        encoder: Any = backbone
        mask, pooled = batch["frame_mask"][:, ::2], self._pooled
        if self.fused and mask.shape[1] <= MOST_POSITIONS:
            states = self._fused_input(encoder, batch["frames"], batch["frame_mask"])
            states, mask = pooled_positions(states, mask, pooled)
            every = fused_states(self.fused, states, mask)
        else:
            every, mask = tower_states(encoder, batch["frames"], batch["frame_mask"], pooled)
        every[-1] = encoder.layer_norm(every[-1])
        return every, mask

    def graph_states(self, backbone: nn.Module, inputs: dict[str, Tensor]) -> tuple[list[Tensor], Tensor]:
        encoder: Any = backbone
        pooled = self._pooled
        multiple = 2 * pooled
        longest = 2 * self._positions // multiple * multiple
        frames = log_mel_graph(self._extractor, inputs["samples"], multiple * _FRAME_SAMPLES)[:, :longest]
        every, mask = tower_states(encoder, frames, torch.ones_like(frames[..., 0], dtype=torch.bool), pooled)
        every[-1] = encoder.layer_norm(every[-1])
        return every, mask

    def _fused_input(self, encoder: Any, frames: Tensor, mask: Tensor) -> Tensor:
        """Input of the first layer ``[B, T/2, D]`` for frames ``[B, T, mel]`` and their mask."""
        first, second = self._convolutions
        states = nn.functional.gelu(first(frames)) * mask[..., None]
        states = nn.functional.gelu(second(states))
        return states + encoder.embed_positions.weight[: states.shape[1]]

    @cached_property
    def _positions(self) -> int:
        """Number of positions of the encoder (1500: 30 s)."""
        config = read_json(self.directory / "config.json")
        return int(config["max_source_positions"])

    @cached_property
    def _pooled(self) -> int:
        """Positions that a shortened encoder averages into one before its layers; 1 for any other.

        Raises:
            UsageError: the configuration does not say a usable number.
        """
        pooled = read_json(self.directory / "config.json").get("pooled_positions", 1)
        if not isinstance(pooled, int) or isinstance(pooled, bool) or not 1 <= pooled <= _MOST_POOLED:
            raise UsageError(
                f"encoder {self.settings.source}: pooled_positions of its config.json is no number from 1 to {_MOST_POOLED}."
            )
        return pooled

    @cached_property
    def _extractor(self) -> Any:
        from transformers import WhisperFeatureExtractor

        return WhisperFeatureExtractor.from_pretrained(str(self.directory), local_files_only=True)


def log_mel(extractor: Any, wave: np.ndarray, multiple: int) -> np.ndarray:
    """Log-mel frames float32 ``[T, mel]`` at 100 Hz of samples ``[N]`` at 16 kHz, padded with silence.

    Args:
        extractor: a ``WhisperFeatureExtractor``.
        wave: the samples.
        multiple: the padded number of samples is a multiple of this.
    """
    padded = -(-(len(wave) + _MARGIN) // multiple) * multiple
    samples = np.pad(wave, (0, padded - len(wave)))
    mel = extractor(samples, sampling_rate=16000, padding="do_not_pad", truncation=False, return_tensors="np")
    return np.ascontiguousarray(mel["input_features"][0].T, dtype=np.float32)


def pooled_positions(states: Tensor, mask: Tensor, pooled: int) -> tuple[Tensor, Tensor]:
    """States ``[B, T, D]`` and their mask with each ``pooled`` positions averaged into one; lengths are multiples of it."""
    if pooled == 1:
        return states, mask
    parts = states.reshape(states.shape[0], -1, pooled, states.shape[2])  # a graph would fix the sizes of `unflatten`
    return parts.mean(2), mask[:, ::pooled]


def log_mel_graph(extractor: Any, wave: Tensor, multiple: int) -> Tensor:
    """As :func:`log_mel`, in operations that a graph can hold: ``[1, T, mel]`` of samples ``[1, N]``.

    What follows the samples is silence, so that only the number of windows depends on their padding.
    """
    size, hop = extractor.n_fft, extractor.hop_length
    padded = torch.cat([wave, wave.new_zeros(1, 2 * size + multiple)], dim=1)
    # Windows are centred; the samples are reflected at their start.
    padded = torch.cat([padded[:, 1 : size // 2 + 1].flip(1), padded], dim=1)
    power = power_spectra(padded, size, hop, size)
    count = torch.div(wave.shape[1] + _MARGIN + multiple - 1, multiple, rounding_mode="floor") * (multiple // hop)
    filters = torch.from_numpy(np.asarray(extractor.mel_filters, np.float32))
    mel = (power[:, :, :count].transpose(1, 2) @ filters).clamp(min=1e-10).log10()
    return (torch.maximum(mel, mel.amax((1, 2), keepdim=True) - 8) + 4) / 4


def tower_states(encoder: Any, frames: Tensor, mask: Tensor, pooled: int = 1) -> tuple[list[Tensor], Tensor]:
    """States ``[B, T/2, D]`` of every layer of a Whisper encoder, before the last LayerNorm, and their mask.

    Args:
        encoder: module with the convolutions, positions and layers of Whisper's encoder.
        frames: ``[B, T, mel]``.
        mask: real frames ``[B, T]``.
        pooled: positions that are averaged into one before the layers.
    """
    inputs = frames.to(encoder.conv1.weight.dtype).transpose(1, 2)
    states = nn.functional.gelu(encoder.conv1(inputs)) * mask[:, None, :]
    states = nn.functional.gelu(encoder.conv2(states)).transpose(1, 2).contiguous()  # otherwise every layer copies it
    mask = mask[:, ::2]
    states = states + encoder.embed_positions.weight[: states.shape[1]]
    states, mask = pooled_positions(states, mask, pooled)
    bias = attention_bias(mask, states.dtype)
    every = [states]
    for layer in encoder.layers:
        output = layer(states, bias)
        states = output[0] if isinstance(output, tuple) else output
        every.append(states)
    return every, mask


def _parts(layer: Any) -> LayerParts:
    attention = layer.self_attn
    return LayerParts(
        attention.q_proj,
        attention.k_proj,
        attention.v_proj,
        attention.out_proj,
        layer.fc1,
        layer.fc2,
        layer.self_attn_layer_norm,
        layer.final_layer_norm,
    )
