"""SALMONN as a speech encoder: what its language model makes of an utterance and of a question about it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from mistere.common.errors import UsageError
from mistere.common.parsing.documents import read_json
from mistere.model.encoders.families.audio_language import AudioLanguage
from mistere.model.encoders.families.decoder_text import write_byte_tokenizer
from mistere.model.encoders.families.family import copy_model_files, pad_stack
from mistere.model.encoders.families.whisper import log_mel
from mistere.model.encoders.lookup.checkpoint_size import BaseWeights
from mistere.model.encoders.preparation import Features
from mistere.model.encoders.pretrained import load_tokenizer
from mistere.model.encoders.salmonn.checkpoint import KEPT_NAMES, export_weights, published_name, random_adapters
from mistere.model.encoders.salmonn.filter_banks import BANDS, filter_banks

_SPEECH: Final = "<SpeechHere>"
_PROMPT: Final = f"USER: <Speech>{_SPEECH}</Speech> Describe the emotion of the speaker in one word.\nASSISTANT:"
_WINDOW: Final = 17
"""Positions of Whisper and BEATs at 50 Hz that become one word of the language model."""
_UNIT: Final = 2 * _WINDOW
_FRAME_SAMPLES: Final = 160
_TOGETHER: Final = 4
"""Utterances that pass through Whisper and BEATs together: each takes the memory of 30 s, however short it is."""


class Salmonn(AudioLanguage):
    """Frames of two kinds at 100 Hz in, the language model's states of windows of a third of a second out.

    As published, Whisper hears each utterance with silence up to its 30 s, BEATs hears the utterance alone, and the language model
    reads the windows of all 30 s. The states of the windows with speech and those of the tokens after the audio are pooled, so the
    question follows the audio. Whisper and BEATs are never trained.
    """

    name = "salmonn"
    unit = _UNIT
    lora_targets = ("q_proj", "v_proj")
    lora_excluded = r"(speech_encoder|beats|speech_Qformer)\..*"
    variants = ("salmonn",)

    @classmethod
    def handles(cls, model_type: str) -> bool:
        return model_type == "salmonn"

    @classmethod
    def export_base(cls, source: Path, target: Path) -> None:
        """Copy the four parts under the names of the network, with SALMONN's own adapters merged.

        Raises:
            UsageError: a part is missing, or the configuration does not describe it.
        """
        copy_model_files(source, target, weights=False)
        export_weights(source, target)

    @classmethod
    def base_weights(cls, model_type: str) -> BaseWeights:
        """The four parts, without SALMONN's adapters, which are merged."""
        return BaseWeights(names=KEPT_NAMES)

    @classmethod
    def write_random(cls, target: Path, seed: int, variant: str = "") -> None:
        from safetensors.torch import save_file
        from transformers import WhisperFeatureExtractor

        from mistere.model.encoders.salmonn.backbone import SalmonnConfig, SalmonnModel

        target.mkdir(parents=True, exist_ok=True)
        size = write_byte_tokenizer(target, ("<s>", "</s>"))
        torch.manual_seed(seed)
        model: Any = SalmonnModel(SalmonnConfig(lora_alpha=16, initializer_range=0.2, **_tiny(size)))
        weights = model.state_dict()
        published = {published_name(name): tensor.clone() for name, tensor in weights.items()}
        save_file(published | random_adapters(weights, rank=2), target / "model.safetensors")
        model.config.save_pretrained(str(target))
        WhisperFeatureExtractor(feature_size=16).save_pretrained(str(target))

    def load_backbone(self) -> nn.Module:
        from mistere.model.encoders.salmonn.backbone import SalmonnModel

        backbone = self.pretrained(SalmonnModel)
        backbone.speech_encoder.requires_grad_(False)
        backbone.beats.requires_grad_(False)
        model: nn.Module = backbone
        return model

    def prepare(self, utterance: np.ndarray) -> Features:
        """Frames ``[T, mel + 129]`` of mono samples at 16 kHz; T is a multiple of 34 and at most 30 s.

        A frame is Whisper's log-mel, the filter banks of BEATs, and 1 where BEATs hears the utterance, which is not in the silence
        after it.
        """
        mel = log_mel(self._extractor, utterance, _UNIT * _FRAME_SAMPLES)[: self._windows * _UNIT]
        banks = filter_banks(utterance)[: len(mel)]
        frames = np.zeros((len(mel), mel.shape[1] + BANDS + 1), np.float32)
        frames[:, : mel.shape[1]] = mel
        frames[: len(banks), mel.shape[1] : -1] = banks
        frames[: len(banks), -1] = 1
        return {"frames": frames, "length": len(frames)}

    def collate(self, features: Sequence[Features]) -> dict[str, Tensor]:
        frames, frame_mask = pad_stack([feature["frames"] for feature in features])
        before, placeholder, after = self._prompt
        tokens = [*before, *[placeholder] * self._windows, *after]
        input_ids = torch.tensor([tokens] * len(features))
        window = torch.arange(len(tokens)) - len(before)
        is_audio = (window >= 0) & (window < self._windows)
        spoken = torch.tensor([len(feature["frames"]) // _UNIT for feature in features])
        return {
            "frames": frames,
            "frame_mask": frame_mask,
            "input_ids": input_ids,
            "mask": torch.ones_like(input_ids, dtype=torch.bool),
            "pooled": (window >= 0) & ((window < spoken[:, None]) | ~is_audio),
            "audio": is_audio.expand(input_ids.shape).clone(),
        }

    def audio_states(self, model: Any, frames: Tensor, mask: Tensor) -> Tensor:
        parts = zip(frames.split(_TOGETHER), mask.split(_TOGETHER), strict=True)
        return torch.cat([self._words(model, *part) for part in parts]).flatten(0, 1)

    def _words(self, model: Any, frames: Tensor, mask: Tensor) -> Tensor:
        """The words ``[B, W, D]`` of frames ``[B, T, mel + 129]`` and their mask."""
        bands = frames.shape[2] - BANDS - 1
        mel, banks, heard = frames.split([bands, BANDS, 1], dim=2)
        # Whisper's features of silence: 8 decades below the loudest, in its scale of 4 decades, and at least 1e-10.
        loudest = mel.masked_fill(~mask[..., None], -torch.inf).amax((1, 2), keepdim=True)
        silence = (loudest - 2).clamp(min=-1.5)
        missing = 2 * model.config.whisper_config.max_source_positions - mel.shape[1]
        mel = torch.where(mask[..., None], mel, silence)
        mel = torch.cat([mel, silence.expand(-1, missing, bands)], dim=1)
        words: Tensor = model.speech_words(mel, banks, heard[..., 0] > 0)
        return words

    @cached_property
    def _windows(self) -> int:
        """Windows of the 30 s that Whisper hears (88)."""
        config = read_json(self.directory / "config.json")
        return int(config["whisper_config"].get("max_source_positions", 1500)) // _WINDOW

    @cached_property
    def _prompt(self) -> tuple[list[int], int, list[int]]:
        """Tokens before the audio, the one that stands for a window of it, and the tokens after it.

        Raises:
            UsageError: the prompt does not hold the audio's place exactly once, or the tokenizer has no begin token.
        """
        import mistere.model.encoders.salmonn.backbone  # noqa: F401  (else transformers warns that it does not know the model)

        tokenizer = load_tokenizer(self.directory, self.settings.source)
        parts = (self.settings.prompt or _PROMPT).split(_SPEECH)
        if len(parts) != 2:
            raise UsageError(
                f"speech.prompt must hold {_SPEECH} once, as the place of the utterance: {self.settings.prompt!r}."
            )
        begin = tokenizer.bos_token_id
        if begin is None:
            raise UsageError(
                f"encoder {self.settings.source}: its tokenizer has no begin token; choose another encoder."
            )
        before, after = (tokenizer(part, add_special_tokens=False)["input_ids"] if part else [] for part in parts)
        return [begin, *before], begin, after


def _tiny(vocabulary: int) -> dict[str, dict[str, Any]]:
    """Configurations of the four parts for tests; Whisper hears 3.4 s, and weights are large enough that the audio matters."""
    return {
        "whisper_config": {
            "num_mel_bins": 16,
            "d_model": 32,
            "encoder_layers": 2,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "max_source_positions": 170,
            "init_std": 0.2,
        },
        "beats_config": {
            "embed_dim": 16,
            "encoder_layers": 2,
            "encoder_embed_dim": 32,
            "encoder_ffn_embed_dim": 64,
            "encoder_attention_heads": 2,
            "conv_pos": 16,
            "conv_pos_groups": 2,
            "num_buckets": 32,
            "max_distance": 64,
        },
        "qformer_config": {
            "hidden_size": 32,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "initializer_range": 0.2,
        },
        "text_config": {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "intermediate_size": 64,
            "vocab_size": vocabulary,
            "max_position_embeddings": 2048,
        },
    }
