"""Qwen2.5-Omni as a speech encoder: the audio tower and the language model of its thinker.

Its audio tower differs from Qwen2-Audio's: it computes windows of two seconds on their own, so its cost grows with the length and not
with its square. Only these two parts are kept of a checkpoint; the vision tower, the talker and the vocoder are never read.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from mistere.common.errors import UsageError
from mistere.common.parsing.documents import read_json
from mistere.model.encoders.families.audio_language import AUDIO_TOKENS, AudioLanguage
from mistere.model.encoders.families.decoder_text import write_byte_tokenizer
from mistere.model.encoders.families.family import copy_model_files
from mistere.model.encoders.lookup.checkpoint_size import BaseWeights

_NAME: Final = re.compile(r"^(?:thinker\.)?(?:model\.)?(?P<part>audio_tower|language_model)\.(?P<rest>.+)")
_TEXT_NAME: Final = re.compile(r"^(?:thinker\.)?model\.(?P<rest>(?:embed_tokens|layers|norm)\..+)")
"""As published, the language model's layers are directly below the thinker's model."""
_KEPT: Final = r"^(?:thinker\.)?(?:(?:model\.)?(?:audio_tower|language_model)|model\.(?:embed_tokens|layers|norm))\."
"""Both, without what is to be read of them."""
_NO_VISION: Final = {"depth": 0, "hidden_size": 8, "intermediate_size": 8, "num_heads": 1, "out_hidden_size": 8}
"""A vision tower without layers, which is removed after loading."""


class Omni(AudioLanguage):
    """Log-mel frames at 100 Hz in, the language model's states of the audio at 25 Hz out, as :class:`AudioLanguage`."""

    name = "omni"
    variants = ("qwen2_5_omni",)

    @classmethod
    def handles(cls, model_type: str) -> bool:
        return model_type in {"qwen2_5_omni", "qwen2_5_omni_thinker"}

    @classmethod
    def export_base(cls, source: Path, target: Path) -> None:
        """Copy the thinker's audio tower and language model, shard by shard, under the names that ``transformers`` loads.

        Raises:
            UsageError: the folder has no such weights, or no configuration of a thinker.
        """
        config = read_json(source / "config.json")
        thinker = config.get("thinker_config", config)
        if not isinstance(thinker, dict) or not {"audio_config", "text_config"} <= thinker.keys():
            raise UsageError(
                f"encoder {source}: its config.json describes no thinker with audio_config and text_config."
            )
        copy_model_files(source, target, weights=False)
        if not _export_weights(source, target):
            raise UsageError(f"encoder {source}: its weights hold no audio_tower and no language model.")
        kept = {**thinker, "model_type": "qwen2_5_omni_thinker", "architectures": ["Qwen2_5OmniThinkerModel"]}
        if stored := config.get("dtype", config.get("torch_dtype")):
            kept.setdefault("dtype", stored)  # the type of the weights may be stated for the whole model only
        kept["vision_config"] = {**_NO_VISION, "model_type": "qwen2_5_omni_vision_encoder"}
        (target / "config.json").write_text(json.dumps(kept, indent=1, sort_keys=True), encoding="utf-8")

    @classmethod
    def base_weights(cls, model_type: str) -> BaseWeights:
        """The audio tower and the language model, without its output layer."""
        return BaseWeights(names=_KEPT)

    @classmethod
    def write_random(cls, target: Path, seed: int, variant: str = "") -> None:
        from safetensors.torch import save_file
        from transformers import Qwen2_5OmniConfig, Qwen2_5OmniThinkerForConditionalGeneration, WhisperFeatureExtractor

        target.mkdir(parents=True, exist_ok=True)
        size = write_byte_tokenizer(target, ("<s>", "</s>", *AUDIO_TOKENS))
        torch.manual_seed(seed)
        thinker = {
            "audio_config": {
                "num_mel_bins": 16,
                "d_model": 32,
                "encoder_layers": 2,
                "encoder_attention_heads": 2,
                "encoder_ffn_dim": 64,
                "output_dim": 32,
            },
            "text_config": {
                "hidden_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "intermediate_size": 64,
                "vocab_size": size,
                "max_position_embeddings": 2048,
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
            },
            "vision_config": {**_NO_VISION, "depth": 1, "fullatt_block_indexes": [0]},
            "audio_token_index": 2,
        }
        config = Qwen2_5OmniConfig(thinker_config=thinker, enable_audio_output=False)
        model: Any = Qwen2_5OmniThinkerForConditionalGeneration(config.thinker_config)
        weights = {f"thinker.{_published(name)}": tensor for name, tensor in model.state_dict().items()}
        save_file({name: tensor.clone().contiguous() for name, tensor in weights.items()}, target / "model.safetensors")
        config.save_pretrained(str(target))
        WhisperFeatureExtractor(feature_size=16).save_pretrained(str(target))

    def load_backbone(self) -> nn.Module:
        from transformers import Qwen2_5OmniThinkerModel

        backbone = self.pretrained(Qwen2_5OmniThinkerModel, optional=r"^visual\.")
        del backbone.visual
        backbone.audio_tower.requires_grad_(False)
        model: nn.Module = backbone
        return model

    def audio_states(self, model: Any, frames: Tensor, mask: Tensor) -> Tensor:
        joined = frames[mask].T.to(model.audio_tower.conv1.weight.dtype)
        lengths = mask.sum(1)
        states: Tensor = model.audio_tower(joined, feature_lens=lengths, aftercnn_lens=lengths // 2).last_hidden_state
        return states


def _published(name: str) -> str:
    """The name of a thinker's weight in a published checkpoint, by its name in ``transformers``."""
    return name.replace("model.language_model.", "model.").replace("model.audio_tower.", "audio_tower.")


def _export_weights(source: Path, target: Path) -> int:
    """Write the shards with the two parts alone, with one of them in memory at a time; returns their bytes."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    files: dict[str, str] = {}
    total = 0
    for shard in sorted(source.glob("*.safetensors")):
        tensors: dict[str, Tensor] = {}
        with safe_open(shard, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118  (not a mapping)
                if match := _NAME.match(name):
                    tensors[f"{match['part']}.{match['rest']}"] = opened.get_tensor(name)
                elif match := _TEXT_NAME.match(name):
                    tensors[f"language_model.{match['rest']}"] = opened.get_tensor(name)
        if tensors:
            save_file(tensors, target / shard.name, metadata={"format": "pt"})
            files |= dict.fromkeys(tensors, shard.name)
            total += sum(tensor.nbytes for tensor in tensors.values())
    if set(files.values()) - {"model.safetensors"}:
        content = {"metadata": {"total_size": total}, "weight_map": files}
        (target / "model.safetensors.index.json").write_text(json.dumps(content), encoding="utf-8")
    return total
