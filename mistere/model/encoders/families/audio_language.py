"""Audio language models as speech encoders: Qwen2-Audio.

Its audio tower is Whisper's encoder with average pooling over pairs of positions. The tower's states replace the audio token of
the prompt in the language model's input.
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
from mistere.model.encoders.families.decoder_text import write_byte_tokenizer
from mistere.model.encoders.families.family import Family, pad_stack
from mistere.model.encoders.families.whisper import log_mel, tower_states
from mistere.model.encoders.preparation import Features
from mistere.model.encoders.pretrained import load_tokenizer

AUDIO_TOKENS = ("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
"""The place of the audio, and its beginning and end."""
_AUDIO = AUDIO_TOKENS[0]
_PROMPT = f"Recognise the emotion that the speaker expresses: <|audio_bos|>{_AUDIO}<|audio_eos|>"
_FRAMES_PER_STATE = 4
_FRAME_SAMPLES = 160


class AudioLanguage(Family):
    """Log-mel frames at 100 Hz in, the language model's states of the audio at 25 Hz out.

    The prompt precedes the audio: attention is causal, so only then do the audio's states depend on the task. States of the audio
    and of the tokens after it are pooled. The audio tower is never trained.
    """

    name = "audio_language"
    kind = "audio"
    causal = True
    rate = 100.0
    unit = _FRAMES_PER_STATE
    lora_targets = ("q_proj", "k_proj")
    lora_excluded = r".*audio_tower\..*"
    variants = ("qwen2_audio",)

    @classmethod
    def handles(cls, model_type: str) -> bool:
        return model_type == "qwen2_audio"

    @classmethod
    def write_random(cls, target: Path, seed: int, variant: str = "") -> None:
        from transformers import Qwen2AudioConfig, Qwen2AudioModel, WhisperFeatureExtractor

        target.mkdir(parents=True, exist_ok=True)
        size = write_byte_tokenizer(target, ("<s>", "</s>", *AUDIO_TOKENS))
        torch.manual_seed(seed)
        config = Qwen2AudioConfig(
            audio_config={
                "num_mel_bins": 16,
                "d_model": 32,
                "encoder_layers": 2,
                "encoder_attention_heads": 2,
                "encoder_ffn_dim": 64,
                "max_source_positions": 1500,
            },
            text_config={
                "model_type": "qwen2",
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "intermediate_size": 64,
                "vocab_size": size,
                "max_position_embeddings": 2048,
            },
            audio_token_index=2,
        )
        Qwen2AudioModel(config).save_pretrained(str(target))
        WhisperFeatureExtractor(feature_size=16).save_pretrained(str(target))

    def load_backbone(self) -> nn.Module:
        from transformers import Qwen2AudioModel

        backbone = self.pretrained(Qwen2AudioModel, optional=r"embed_positions")
        backbone.audio_tower.requires_grad_(False)
        model: nn.Module = backbone
        return model

    def layers(self, backbone: nn.Module) -> Sequence[nn.Module]:
        return list(backbone.language_model.layers)  # type: ignore[union-attr, arg-type]

    def hidden_size(self, backbone: nn.Module) -> int:
        return int(backbone.config.text_config.hidden_size)  # type: ignore[union-attr, arg-type]

    def prepare(self, utterance: np.ndarray) -> Features:
        """Log-mel frames ``[T, mel]`` of mono samples at 16 kHz; T is a multiple of 4 and at most 30 s."""
        frames = log_mel(self._extractor, utterance, _FRAMES_PER_STATE * _FRAME_SAMPLES)
        limit = _FRAMES_PER_STATE * (self._extractor.nb_max_frames // _FRAMES_PER_STATE)
        return {"frames": frames[:limit], "length": min(len(frames), limit)}

    def collate(self, features: Sequence[Features]) -> dict[str, Tensor]:
        frames, frame_mask = pad_stack([feature["frames"] for feature in features])
        before, audio, after = self._prompt
        tokens = [[*before, *[audio] * (len(f["frames"]) // _FRAMES_PER_STATE), *after] for f in features]
        input_ids, mask = pad_stack(tokens)
        return {
            "frames": frames,
            "frame_mask": frame_mask,
            "input_ids": input_ids,
            "mask": mask,
            "pooled": mask & (torch.arange(mask.shape[1]) >= len(before)),
            "audio": mask & (input_ids == audio),
        }

    def hidden_states(self, backbone: nn.Module, batch: dict[str, Tensor]) -> tuple[list[Tensor], Tensor]:
        model: Any = backbone
        projected = self.audio_states(model, batch["frames"], batch["frame_mask"])
        words = model.get_input_embeddings()(batch["input_ids"])
        inputs = words.masked_scatter(batch["audio"][..., None], projected.to(words.dtype))
        output = model.language_model(
            inputs_embeds=inputs,
            attention_mask=batch["mask"].long(),
            output_hidden_states=True,
            use_cache=False,
            return_dict=True,
        )
        return list(output.hidden_states), batch["pooled"]

    def audio_states(self, model: Any, frames: Tensor, mask: Tensor) -> Tensor:
        """States ``[S, D]`` of the audio at 25 Hz in the width of the language model, utterance after utterance.

        Args:
            model: the backbone.
            frames: log-mel frames ``[B, T, mel]``.
            mask: real frames ``[B, T]``, of each utterance a multiple of four.
        """
        tower = model.audio_tower
        every, half = tower_states(tower, frames, mask)
        states = nn.functional.avg_pool1d(every[-1].transpose(1, 2), 2).transpose(1, 2)
        projected: Tensor = model.multi_modal_projector(tower.layer_norm(states))[half[:, ::2]]
        return projected

    @cached_property
    def _prompt(self) -> tuple[list[int], int, list[int]]:
        """Tokens before the audio, the audio token, and the tokens after it.

        Raises:
            UsageError: the prompt does not hold the audio token exactly once.
        """
        tokenizer = load_tokenizer(self.directory, self.settings.source)
        prompt = self.settings.prompt or _PROMPT
        tokens = tokenizer(prompt)["input_ids"]
        audio = tokenizer.convert_tokens_to_ids(_AUDIO)
        if tokens.count(audio) != 1:
            raise UsageError(f"speech.prompt must hold {_AUDIO} once, as the place of the utterance: {prompt!r}.")
        index = tokens.index(audio)
        return (tokens[:index], audio, tokens[index + 1 :])

    @cached_property
    def _extractor(self) -> Any:
        from transformers import WhisperFeatureExtractor

        return WhisperFeatureExtractor.from_pretrained(str(self.directory), local_files_only=True)
