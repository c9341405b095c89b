"""SALMONN's network: Whisper's encoder and BEATs, a Q-Former over windows of both, and a LLaMA that reads its output as words."""

from __future__ import annotations

from typing import Any, ClassVar, Final

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    Blip2QFormerConfig,
    Blip2QFormerModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedConfig,
    PreTrainedModel,
    WhisperConfig,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from mistere.model.encoders.families.whisper import tower_states
from mistere.model.encoders.salmonn.beats import Beats, BeatsConfig

WINDOW: Final = 17
"""Positions of a window at 50 Hz: a third of a second, one word for the language model."""


class QFormerConfig(Blip2QFormerConfig):
    """A Q-Former of two layers, each of which reads the audio; the other defaults are BLIP-2's, as published."""

    num_hidden_layers: int = 2
    cross_attention_frequency: int = 1


class SalmonnConfig(PreTrainedConfig):
    """The configurations of the four parts; the defaults are the published sizes, except LLaMA's."""

    model_type = "salmonn"
    sub_configs_defaults: ClassVar = {
        "whisper_config": WhisperConfig,
        "beats_config": BeatsConfig,
        "qformer_config": QFormerConfig,
        "text_config": LlamaConfig,
    }

    whisper_config: Any = None
    beats_config: Any = None
    qformer_config: Any = None
    text_config: Any = None


AutoConfig.register("salmonn", SalmonnConfig)


class SalmonnModel(PreTrainedModel):
    """The network without its head: what :class:`~mistere.model.encoders.families.salmonn.Salmonn` reads."""

    config_class = SalmonnConfig
    base_model_prefix = "salmonn"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules: ClassVar = ["LlamaDecoderLayer"]

    def __init__(self, config: SalmonnConfig) -> None:
        super().__init__(config)
        whisper, beats, text = config.whisper_config, config.beats_config, config.text_config
        width = whisper.d_model + beats.encoder_embed_dim
        qformer = QFormerConfig.from_dict(config.qformer_config.to_dict() | {"encoder_hidden_size": width})
        self.speech_encoder = WhisperEncoder(whisper)
        self.ln_speech = nn.LayerNorm(whisper.d_model)
        self.beats = Beats(beats)
        self.ln_audio = nn.LayerNorm(beats.encoder_embed_dim)
        self.speech_query_tokens = nn.Parameter(torch.randn(1, 1, qformer.hidden_size) * qformer.initializer_range)
        self.speech_Qformer = Blip2QFormerModel(qformer)
        self.speech_llama_proj = nn.Linear(qformer.hidden_size, text.hidden_size)
        self.language_model = LlamaModel(text)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The words of the language model."""
        return self.language_model.embed_tokens

    def speech_words(self, mel: Tensor, banks: Tensor, heard: Tensor) -> Tensor:
        """What the language model reads of the audio: a word for each window, ``[B, W, D]``.

        Args:
            mel: Whisper's log-mel frames ``[B, 2 P, mel]``, P being the positions of Whisper's encoder.
            banks: BEATs's filter banks ``[B, T, 128]``; T is at most 2 P.
            heard: ``[B, T]``, False at padding of the filter banks.
        """
        every, _ = tower_states(self.speech_encoder, mel, torch.ones_like(mel[..., 0], dtype=torch.bool))
        speech = self.ln_speech(self.speech_encoder.layer_norm(every[-1]))
        audio, mask = self.beats(banks, heard)
        audio = self.ln_audio(audio) * mask[..., None]
        audio = nn.functional.pad(audio, (0, 0, 0, speech.shape[1] - audio.shape[1]))
        count = speech.shape[1] // WINDOW
        both = torch.cat([speech, audio], dim=-1)[:, : count * WINDOW]
        windows = both.unflatten(1, (count, WINDOW)).flatten(0, 1)
        query = self.speech_query_tokens.expand(len(windows), -1, -1)
        output = self.speech_Qformer(query_embeds=query, encoder_hidden_states=windows).last_hidden_state
        return self.speech_llama_proj(output[:, 0]).unflatten(0, (-1, count))
