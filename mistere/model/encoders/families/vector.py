"""Precomputed features: no backbone. The columns are standardised, and the projection learns from them.

``source: measured:vector`` makes the base from the train split: the mean and standard deviation of every column. They are stored as
the weights of any other base, so a checkpoint, a bundle and the predictor treat a vector as any other modality.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mistere.common.counting import counted
from mistere.common.errors import DataError, UsageError
from mistere.data.kinds.kind import UnreadableError
from mistere.model.encoders.families.family import Family
from mistere.model.encoders.preparation import Features

_WEIGHTS = "model.safetensors"


class VectorColumns(Family):
    """A vector ``[d]`` in, its standardised columns out, as a sequence of one position."""

    name = "vector"
    kind = "vector"
    measured = True
    graph_inputs = ("values",)

    @classmethod
    def handles(cls, model_type: str) -> bool:
        return model_type == "vector"

    @classmethod
    def measure(cls, target: Path, inputs: Iterable[np.ndarray]) -> None:
        """Write mean and standard deviation of every column; that of a constant one is 1.

        Raises:
            DataError: there is no vector, or they differ in width.
        """
        count, total, squares, origin = 0, np.zeros(0), np.zeros(0), np.zeros(0)
        for vector in inputs:
            values = vector.astype(np.float64)
            if not count:
                total, squares, origin = np.zeros(len(values)), np.zeros(len(values)), values
            if len(values) != len(total):
                raise DataError(
                    f"a vector has {counted(len(values), 'value')}, others have {len(total)}: compute them with one feature extractor."
                )
            count += 1
            total += values - origin  # relative to the first one, which keeps the digits of a large mean
            squares += (values - origin) ** 2
        if not count:
            raise DataError("no utterance of train has a usable vector: leave the modality out, or add the vectors.")
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean**2, 0))
        _write(target, mean + origin, np.where(std > 1e-7 * np.abs(mean + origin), std, 1.0))

    @classmethod
    def write_random(cls, target: Path, seed: int, variant: str = "") -> None:
        draw = np.random.default_rng(seed)
        _write(target, draw.normal(size=12), draw.uniform(0.5, 2, size=12))

    def load_backbone(self) -> nn.Module:
        return nn.Identity()

    def layers(self, backbone: nn.Module) -> Sequence[nn.Module]:
        return []

    def hidden_size(self, backbone: nn.Module) -> int:
        return self.input_width

    @property
    def input_width(self) -> int:
        """The number of values of a vector."""
        return len(self._columns[0])

    def adapter_targets(self, backbone: nn.Module, configured: Sequence[str]) -> list[str]:
        raise UsageError(f"encoder {self.settings.source} has no backbone that could get adapters: set tuning=frozen.")

    def prepare(self, utterance: np.ndarray) -> Features:
        """The standardised vector float32 ``[1, d]``.

        Raises:
            UnreadableError: it has another width than those that the encoder was trained with.
        """
        mean, std = self._columns
        if utterance.shape != mean.shape:
            raise UnreadableError(
                f"The vector has {counted(utterance.size, 'value')}; this encoder reads vectors of {len(mean)}."
            )
        return {"values": ((utterance - mean) / std).astype(np.float32)[None], "length": 1}

    def collate(self, features: Sequence[Features]) -> dict[str, Tensor]:
        return {"values": torch.stack([torch.as_tensor(feature["values"]) for feature in features])}

    def hidden_states(self, backbone: nn.Module, batch: dict[str, Tensor]) -> tuple[list[Tensor], Tensor]:
        values = backbone(batch["values"])
        return [values], torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)

    def graph_states(self, backbone: nn.Module, inputs: dict[str, Tensor]) -> tuple[list[Tensor], Tensor]:
        mean, std = (torch.from_numpy(column) for column in self._columns)
        return self.hidden_states(backbone, {"values": ((inputs["values"] - mean) / std)[:, None]})

    @cached_property
    def _columns(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation ``[d]`` of the columns.

        Raises:
            UsageError: the base does not hold them.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            weights = load_file(self.directory / _WEIGHTS)
            mean, std = weights["mean"], weights["std"]
            usable = mean.shape == std.shape and mean.ndim == 1 and np.isfinite(mean).all() and (std > 0).all()
        except (SafetensorError, OSError, KeyError, AttributeError) as error:
            raise UsageError(f"encoder {self.settings.source}: its base holds no columns.") from error
        if not usable:
            raise UsageError(f"encoder {self.settings.source}: the columns of its base are not usable.")
        return mean, std


def _write(target: Path, mean: np.ndarray, std: np.ndarray) -> None:
    from safetensors.numpy import save_file

    target.mkdir(parents=True, exist_ok=True)
    (target / "config.json").write_text(json.dumps({"model_type": "vector"}), encoding="utf-8")
    save_file({"mean": mean.astype(np.float32), "std": std.astype(np.float32)}, target / _WEIGHTS)
