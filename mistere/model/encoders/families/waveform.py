"""Encoders of waveforms: wav2vec 2.0, HuBERT and WavLM, through ``AutoModel``."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mistere.common.errors import UsageError
from mistere.model.encoders.families.family import Family, pad_stack
from mistere.model.encoders.preparation import Features


class Waveform(Family):
    """Samples at 16 kHz in, states at about 50 Hz out.

    The first convolution of the *base* models is group-normalised over time, which padding would change. Their convolutions run
    on one utterance at a time; the transformer on top is batched and masked.
    """

    name = "waveform"
    kind = "audio"
    lora_targets = ("q_proj", "v_proj")
    rate = 16000.0
    graph_inputs = ("samples",)
    variants = ("wav2vec2", "wav2vec2-group", "hubert", "wavlm")

    @classmethod
    def handles(cls, model_type: str) -> bool:
        return model_type in {"wav2vec2", "hubert", "wavlm"}

    @classmethod
    def write_random(cls, target: Path, seed: int, variant: str = "") -> None:
        from transformers import AutoConfig, AutoModel, Wav2Vec2FeatureExtractor

        torch.manual_seed(seed)
        model_type, _, group = (variant or "wav2vec2").partition("-")
        config = AutoConfig.for_model(
            model_type,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            conv_dim=[16, 16, 16],
            conv_stride=[8, 8, 5],
            conv_kernel=[10, 8, 5],
            num_feat_extract_layers=3,
            num_conv_pos_embeddings=8,
            num_conv_pos_embedding_groups=2,
            feat_extract_norm="group" if group else "layer",
            do_stable_layer_norm=not group,
            mask_time_prob=0.0,
        )
        target.mkdir(parents=True, exist_ok=True)
        AutoModel.from_config(config).save_pretrained(str(target))
        Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(str(target))

    def load_backbone(self) -> nn.Module:
        from transformers import AutoModel

        backbone = self.pretrained(AutoModel, optional=r"masked_spec_embed$")
        backbone.config.apply_spec_augment = False
        if getattr(backbone, "masked_spec_embed", None) is not None:
            backbone.masked_spec_embed.requires_grad_(False)  # used for masking in pre-training only
        model: nn.Module = backbone
        return model

    def layers(self, backbone: nn.Module) -> Sequence[nn.Module]:
        return list(backbone.encoder.layers)  # type: ignore[union-attr, arg-type]

    def hidden_size(self, backbone: nn.Module) -> int:
        return int(backbone.config.hidden_size)  # type: ignore[union-attr, arg-type]

    def adapter_targets(self, backbone: nn.Module, configured: Sequence[str]) -> list[str]:
        """As the base class; for WavLM the feed-forward layers.

        WavLM passes its attention weights to one fused function, so the forward pass never reaches an adapter on them.

        Raises:
            UsageError: the configuration names projections of WavLM's attention.
        """
        if backbone.config.model_type != "wavlm":  # type: ignore[union-attr]
            return super().adapter_targets(backbone, configured)
        if bypassed := sorted(set(configured) & {"q_proj", "k_proj", "v_proj", "out_proj"}):
            raise UsageError(
                f"encoder {self.settings.source}: an adapter on {bypassed[0]} learns nothing in WavLM; set "
                "lora.target_modules=[intermediate_dense,output_dense]."
            )
        return list(configured or ("intermediate_dense", "output_dense"))

    def prepare(self, utterance: np.ndarray) -> Features:
        """Samples ``[N]`` normalised to zero mean and unit variance, as in pre-training."""
        wave = utterance.astype(np.float32)
        wave = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)
        return {"samples": wave, "length": len(wave)}

    def collate(self, features: Sequence[Features]) -> dict[str, Tensor]:
        samples, mask = pad_stack([feature["samples"] for feature in features])
        return {"samples": samples, "sample_mask": mask}

    def hidden_states(self, backbone: nn.Module, batch: dict[str, Tensor]) -> tuple[list[Tensor], Tensor]:
        model: Any = backbone
        lengths = batch["sample_mask"].sum(1)
        samples = batch["samples"].to(model.feature_projection.projection.weight.dtype)
        if model.config.feat_extract_norm == "group":
            frames, mask = self._one_by_one(model, samples, lengths)
        else:
            frames = model.feature_extractor(samples).transpose(1, 2)
            counts = model._get_feat_extract_output_lengths(lengths)
            mask = torch.arange(frames.shape[1], device=frames.device)[None, :] < counts[:, None]
        return self._states(model, frames, mask), mask

    def graph_states(self, backbone: nn.Module, inputs: dict[str, Tensor]) -> tuple[list[Tensor], Tensor]:
        model: Any = backbone
        wave = inputs["samples"]
        wave = (wave - wave.mean(1, keepdim=True)) / (wave.var(1, unbiased=False, keepdim=True) + 1e-7).sqrt()
        frames = model.feature_extractor(wave).transpose(1, 2)
        mask = torch.ones_like(frames[..., 0], dtype=torch.bool)
        return self._states(model, frames, mask), mask

    @staticmethod
    def _states(model: Any, frames: Tensor, mask: Tensor) -> list[Tensor]:
        """States ``[B, T, D]`` of the input and of every layer, from the output of the convolutions ``[B, T, D']``."""
        projected = model.feature_projection(frames)
        states = projected[0] if isinstance(projected, tuple) else projected
        states = states * mask[..., None]
        every: list[Tensor] = []
        thread = threading.get_ident()  # other threads may run their own batches through the same layers

        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if threading.get_ident() == thread:
                every.append(output[0] if isinstance(output, tuple) else output)

        hooks = [layer.register_forward_hook(keep) for layer in model.encoder.layers]
        try:
            last = model.encoder(states, attention_mask=mask, return_dict=True).last_hidden_state
        finally:
            for hook in hooks:
                hook.remove()
        return [states, *every[:-1], last]

    @staticmethod
    def _one_by_one(model: Any, samples: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        frames = [
            model.feature_extractor(wave[None, : int(length)])[0].T
            for wave, length in zip(samples, lengths, strict=True)
        ]
        return pad_stack(frames)
