"""Encoders of single images: ViT and CLIP's vision tower. Each frame of an utterance is one position to pool."""

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
from mistere.model.encoders.families.family import Family, pad_stack
from mistere.model.encoders.images import Preprocessing
from mistere.model.encoders.lookup.checkpoint_size import BaseWeights
from mistere.model.encoders.preparation import Features
from mistere.model.encoders.pretrained import load_pretrained


class ImageFrames(Family):
    """Frames in, for each frame and layer the state of its class token out.

    Every frame runs through the backbone by itself, so padding is never computed. The states of the class token stand for the
    frame, as in the models' own training.
    """

    name = "image"
    kind = "frames"
    lora_targets = ("q_proj", "v_proj")
    variants = ("vit", "clip")

    @classmethod
    def handles(cls, model_type: str) -> bool:
        return model_type in {"vit", "clip", "clip_vision_model"}

    @classmethod
    def export_base(cls, source: Path, target: Path) -> None:
        """Copy the folder; of a CLIP with both towers, the vision tower alone."""
        if read_json(source / "config.json").get("model_type") != "clip":
            super().export_base(source, target)
            return
        from transformers import CLIPVisionModel

        model: Any = load_pretrained(CLIPVisionModel, source, source=str(source), dtype=torch.float32)
        super().export_base(source, target)
        for file in target.glob("*.safetensors*"):
            file.unlink()
        model.save_pretrained(str(target))

    @classmethod
    def base_weights(cls, model_type: str) -> BaseWeights:
        """Of a CLIP with both towers, the vision tower in float32."""
        return BaseWeights(names=r"^vision_model\.", float32=True) if model_type == "clip" else BaseWeights()

    @classmethod
    def write_random(cls, target: Path, seed: int, variant: str = "") -> None:
        from transformers import CLIPVisionConfig, CLIPVisionModel, ViTConfig, ViTModel

        torch.manual_seed(seed)
        target.mkdir(parents=True, exist_ok=True)
        if variant == "clip":
            CLIPVisionModel(CLIPVisionConfig(**TINY)).save_pretrained(str(target))
        else:
            ViTModel(ViTConfig(**TINY), add_pooling_layer=False).save_pretrained(str(target))
        write_preprocessor(target)

    def load_backbone(self) -> nn.Module:
        from transformers import CLIPVisionModel, ViTModel

        clip = read_json(self.directory / "config.json").get("model_type") != "vit"
        backbone = self.pretrained(CLIPVisionModel if clip else ViTModel, optional=r"^pooler\.")
        if getattr(backbone, "pooler", None) is not None:
            backbone.pooler = None
        if clip:
            backbone.post_layernorm.requires_grad_(False)  # of the class token's last state only, which we do not read
        model: nn.Module = backbone
        return model

    def layers(self, backbone: nn.Module) -> Sequence[nn.Module]:
        model: Any = backbone
        return list(model.encoder.layers if hasattr(model, "encoder") else model.layers)

    def hidden_size(self, backbone: nn.Module) -> int:
        return int(backbone.config.hidden_size)  # type: ignore[union-attr, arg-type]

    def prepare(self, utterance: Sequence[np.ndarray]) -> Features:
        """Images ``[H, W, 3]`` as uint8 ``[T, 3, side, side]``; ``length`` counts the positions of all frames."""
        pixels = np.stack([self._preprocessing.resized(image) for image in utterance])
        return {"pixels": pixels, "length": len(pixels) * self._positions()}

    def collate(self, features: Sequence[Features]) -> dict[str, Tensor]:
        pixels, mask = pad_stack([feature["pixels"] for feature in features])
        return {"pixels": pixels, "mask": mask}

    def hidden_states(self, backbone: nn.Module, batch: dict[str, Tensor]) -> tuple[list[Tensor], Tensor]:
        model: Any = backbone
        mask = batch["mask"]
        states = model.embeddings(self._preprocessing.normalised(batch["pixels"][mask]).to(self.dtype))
        if hasattr(model, "pre_layrnorm"):
            states = model.pre_layrnorm(states)
        every = [states[:, 0]]
        for layer in self.layers(model):
            output = layer(states, attention_mask=None)
            states = output[0] if isinstance(output, tuple) else output
            every.append(states[:, 0])
        if hasattr(model, "layernorm"):
            every[-1] = model.layernorm(states)[:, 0]
        return [_by_utterance(frames, mask) for frames in every], mask

    def _positions(self) -> int:
        """Positions of a frame: its patches and the class token."""
        config = self._config
        return (int(config["image_size"]) // int(config["patch_size"])) ** 2 + 1

    @cached_property
    def _preprocessing(self) -> Preprocessing:
        return Preprocessing.read(self.directory, image_side(self._config, self.settings.source), self.settings.source)

    @cached_property
    def _config(self) -> dict[str, Any]:
        return read_json(self.directory / "config.json")


def _by_utterance(frames: Tensor, mask: Tensor) -> Tensor:
    """The states ``[N, D]`` of all real frames as ``[B, T, D]``, with zeros at padding."""
    states = frames.new_zeros(*mask.shape, frames.shape[-1])
    return states.masked_scatter(mask[..., None], frames)


def image_side(config: dict[str, Any], source: str) -> int:
    """Height and width of the images that a model takes.

    Raises:
        UsageError: the configuration states none, or they differ.
    """
    side, patch = config.get("image_size"), config.get("patch_size")
    if type(side) is not int or type(patch) is not int or not 0 < patch <= side:
        raise UsageError(f"encoder {source}: its config.json states no image_size and patch_size of a square image.")
    return side


TINY: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 16,
}


def write_preprocessor(target: Path, **values: Any) -> None:
    """Write the preprocessing of a random backbone."""
    import json

    content = {"size": {"height": TINY["image_size"], "width": TINY["image_size"]}, "image_mean": [0.5] * 3, **values}
    (target / "preprocessor_config.json").write_text(json.dumps(content), encoding="utf-8")
