"""Encoders of clips: VideoMAE, which sees a fixed number of frames at once."""

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
from mistere.model.encoders.families.family import Family
from mistere.model.encoders.families.image import TINY, image_side, write_preprocessor
from mistere.model.encoders.images import Preprocessing
from mistere.model.encoders.preparation import Features


class Video(Family):
    """A clip in, for each moment (two frames) and layer the mean state of its patches out.

    The model takes a fixed number of frames (16); those of an utterance are repeated or left out evenly to give as many.
    """

    name = "video"
    kind = "frames"
    lora_targets = ("query", "value")
    variants = ("videomae",)

    @classmethod
    def handles(cls, model_type: str) -> bool:
        return model_type == "videomae"

    @classmethod
    def write_random(cls, target: Path, seed: int, variant: str = "") -> None:
        from transformers import VideoMAEConfig, VideoMAEModel

        torch.manual_seed(seed)
        target.mkdir(parents=True, exist_ok=True)
        VideoMAEModel(VideoMAEConfig(**TINY, num_frames=4, tubelet_size=2)).save_pretrained(str(target))
        write_preprocessor(target, size={"shortest_edge": TINY["image_size"]}, do_center_crop=True)

    def load_backbone(self) -> nn.Module:
        from transformers import VideoMAEModel

        return self.pretrained(VideoMAEModel, optional=r"^layernorm\.")

    def layers(self, backbone: nn.Module) -> Sequence[nn.Module]:
        model: Any = backbone
        return list(model.encoder.layer)

    def hidden_size(self, backbone: nn.Module) -> int:
        return int(backbone.config.hidden_size)  # type: ignore[union-attr, arg-type]

    def prepare(self, utterance: Sequence[np.ndarray]) -> Features:
        """Images ``[H, W, 3]`` as uint8 ``[T, 3, side, side]`` with the model's T; ``length`` counts the positions."""
        frames, moments, patches = self._shape()
        prepared = [self._preprocessing.resized(image) for image in utterance]
        chosen = [round(index * (len(prepared) - 1) / max(1, frames - 1)) for index in range(frames)]
        return {"pixels": np.stack([prepared[index] for index in chosen]), "length": moments * patches}

    def collate(self, features: Sequence[Features]) -> dict[str, Tensor]:
        return {"pixels": torch.stack([torch.as_tensor(feature["pixels"]) for feature in features])}

    def hidden_states(self, backbone: nn.Module, batch: dict[str, Tensor]) -> tuple[list[Tensor], Tensor]:
        model: Any = backbone
        _, moments, patches = self._shape()
        pixels = self._preprocessing.normalised(batch["pixels"])
        states = model.embeddings(pixels.to(self.dtype), None)
        every = [states]
        for layer in self.layers(model):
            output = layer(states)
            states = output[0] if isinstance(output, tuple) else output
            every.append(states)
        if model.layernorm is not None:
            every[-1] = model.layernorm(states)
        means = [layer.reshape(len(pixels), moments, patches, -1).mean(2) for layer in every]
        return means, torch.ones(len(pixels), moments, dtype=torch.bool, device=pixels.device)

    def _shape(self) -> tuple[int, int, int]:
        """Frames of a clip, its moments, and the patches of a moment."""
        config = self._config
        side = image_side(config, self.settings.source)
        frames, tubelet = config.get("num_frames", 16), config.get("tubelet_size", 2)
        if type(frames) is not int or type(tubelet) is not int or not 0 < tubelet <= frames <= 64:
            raise UsageError(f"encoder {self.settings.source}: its config.json states an impossible number of frames.")
        return frames, frames // tubelet, (side // int(config["patch_size"])) ** 2

    @cached_property
    def _preprocessing(self) -> Preprocessing:
        side = image_side(self._config, self.settings.source)
        return Preprocessing.read(self.directory, side, self.settings.source)

    @cached_property
    def _config(self) -> dict[str, Any]:
        return read_json(self.directory / "config.json")
