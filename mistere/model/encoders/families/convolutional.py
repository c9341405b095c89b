"""A small speech encoder without pretrained weights: convolutions over log-mel frames, for students of a larger one.

``source: measured:convolutional`` makes the base: the mean and standard deviation of every mel band in train, and random weights from
a fixed seed. Its 0.6 million weights see an utterance of 2 s as 50 positions, a fiftieth of the work of the smallest Whisper
(``docs/guides/small.md`` has the times). The blocks are ConvNeXt's (Liu et al., arXiv 2201.03545) over time.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mistere.common.errors import DataError, UsageError
from mistere.common.parsing.documents import read_json
from mistere.model.encoders.families.family import Family, pad_stack
from mistere.model.encoders.inputs.power_spectrum import power_spectra
from mistere.model.encoders.preparation import Features

RATE = 16000
HOP = 160
"""Samples between frames: 100 frames a second."""
WINDOW = 400
SPECTRUM = 512
QUIETEST = 1e-8
_LEAST_DEVIATION = 1e-3


@dataclass(frozen=True)
class Sizes:
    """The sizes in ``config.json``.

    Attributes:
        bands: mel bands.
        width: width D of the states.
        blocks: number of blocks.
        kernel: width of the convolutions of the blocks, in positions; odd.
        stride: frames of a position.
    """

    bands: int = 80
    width: int = 160
    blocks: int = 5
    kernel: int = 7
    stride: int = 4


def log_mel_frames(wave: np.ndarray, bands: int, multiple: int) -> np.ndarray:
    """Log-mel frames float32 ``[T, bands]`` at 100 Hz of samples ``[N]`` at 16 kHz; numpy only, for clients without torch.

    Args:
        wave: mono samples.
        bands: mel bands from 0 to 8 kHz.
        multiple: T is a multiple of this; silence fills it up.
    """
    frames = -(-max(1, len(wave)) // (HOP * multiple)) * multiple
    margin = (WINDOW - HOP) // 2
    padded = np.zeros(frames * HOP + 2 * margin, dtype=np.float32)
    padded[margin : margin + len(wave)] = wave
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:frames]
    spectrum = np.fft.rfft(windows * np.hanning(WINDOW + 1)[:-1].astype(np.float32), SPECTRUM)
    power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
    return np.log(np.maximum(power @ mel_filters(bands), QUIETEST)).astype(np.float32)


@cache
def mel_filters(bands: int) -> np.ndarray:
    """Triangular filters float32 ``[257, bands]``, equally wide on the mel scale (O'Shaughnessy: 2595 log10(1 + f / 700))."""
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    bins = np.arange(SPECTRUM // 2 + 1)[:, None] * RATE / SPECTRUM
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    # The lowest bands are narrower than a bin of the spectrum: each gets at least the bin nearest to its centre.
    nearest = np.abs(bins - edges[1:-1]).argmin(0)
    filters = np.maximum(0, np.minimum(rising, falling))
    filters[nearest, np.arange(bands)] = np.maximum(filters[nearest, np.arange(bands)], 0.5)
    return filters.astype(np.float32)


class Block(nn.Module):
    """A depthwise convolution over time and a feed-forward layer, with a residual: ``[B, T, D]`` to ``[B, T, D]``."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.mix = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 2 * width)
        self.contract = nn.Linear(2 * width, width)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """The block's output; ``mask`` ``[B, T, 1]`` is 0 at padding."""
        mixed = self.norm(self.mix(states.transpose(1, 2)).transpose(1, 2))
        return (states + self.contract(nn.functional.gelu(self.expand(mixed)))) * mask


class ConvolutionalBackbone(nn.Module):
    """Standardised frames, a strided convolution, blocks.

    Args:
        sizes: of the base.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.mean = nn.Parameter(torch.zeros(sizes.bands), requires_grad=False)
        self.std = nn.Parameter(torch.ones(sizes.bands), requires_grad=False)
        reach = 2 * sizes.stride + 1
        self.stem = nn.Conv1d(sizes.bands, sizes.width, reach, stride=sizes.stride, padding=sizes.stride)
        self.stem_norm = nn.LayerNorm(sizes.width)
        self.blocks = nn.ModuleList(Block(sizes.width, sizes.kernel) for _ in range(sizes.blocks))
        self._recomputes = False

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any]) -> None:
        """Recompute the activations of the blocks in the backward pass, as models of ``transformers`` do."""
        self._recomputes = True

    def forward(self, frames: Tensor, frame_mask: Tensor) -> tuple[list[Tensor], Tensor]:
        """States ``[B, T / stride, D]`` of the input and of every block, and their mask.

        Args:
            frames: ``[B, T, bands]``; T is a multiple of the stride.
            frame_mask: ``[B, T]``, False at padding.
        """
        inputs = (frames - self.mean) / self.std * frame_mask[..., None]
        mask = frame_mask[:, :: self.sizes.stride]
        weight = mask[..., None].to(frames.dtype)
        states = nn.functional.gelu(self.stem_norm(self.stem(inputs.transpose(1, 2)).transpose(1, 2))) * weight
        every = [states]
        for block in self.blocks:
            if self._recomputes and self.training:
                every.append(checkpoint(block, every[-1], weight, use_reentrant=False))
            else:
                every.append(block(every[-1], weight))
        return every, mask


class Convolutional(Family):
    """Log-mel frames at 100 Hz in, states at 25 Hz out."""

    name = "convolutional"
    kind = "audio"
    measured = True
    graph_inputs = ("samples",)
    lora_targets = ("expand", "contract")
    rate = 100.0
    unit = 4

    @classmethod
    def handles(cls, model_type: str) -> bool:
        return model_type == cls.name

    @classmethod
    def measure(cls, target: Path, inputs: Iterable[np.ndarray]) -> None:
        """Write the statistics of the mel bands over all frames of train, and random weights.

        Raises:
            DataError: there is no utterance with audio.
        """
        sizes = Sizes()
        count, total, squares = 0, np.zeros(sizes.bands), np.zeros(sizes.bands)
        for wave in inputs:
            frames = log_mel_frames(wave, sizes.bands, sizes.stride).astype(np.float64)
            count += len(frames)
            total += frames.sum(0)
            squares += (frames**2).sum(0)
        if not count:
            raise DataError("no utterance of train has usable audio: leave the modality out, or add recordings.")
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - mean**2, _LEAST_DEVIATION**2))
        _write(target, sizes, 0, mean, std)

    @classmethod
    def write_random(cls, target: Path, seed: int, variant: str = "") -> None:
        sizes = Sizes(bands=16, width=32, blocks=2, kernel=3)
        _write(target, sizes, seed, np.full(sizes.bands, -8.0), np.full(sizes.bands, 4.0))

    def load_backbone(self) -> nn.Module:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        backbone = ConvolutionalBackbone(self._sizes)
        try:
            backbone.load_state_dict(load_file(self.directory / "model.safetensors"), strict=True)
        except (RuntimeError, SafetensorError, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(
                f"encoder {self.settings.source}: its weights do not load with its config.json ({reason})."
            ) from error
        return backbone.to(self.dtype).eval()

    def layers(self, backbone: nn.Module) -> Sequence[nn.Module]:
        return list(backbone.blocks)  # type: ignore[arg-type]

    def hidden_size(self, backbone: nn.Module) -> int:
        return self._sizes.width

    def prepare(self, utterance: np.ndarray) -> Features:
        """Log-mel frames ``[T, bands]`` of mono samples at 16 kHz; T is a multiple of the stride."""
        sizes = self._sizes
        frames = log_mel_frames(utterance, sizes.bands, sizes.stride)
        return {"frames": frames, "length": len(frames)}

    def collate(self, features: Sequence[Features]) -> dict[str, Tensor]:
        frames, mask = pad_stack([feature["frames"] for feature in features])
        return {"frames": frames, "frame_mask": mask}

    def hidden_states(self, backbone: nn.Module, batch: dict[str, Tensor]) -> tuple[list[Tensor], Tensor]:
        model: Any = backbone
        every, mask = model(batch["frames"].to(model.stem.weight.dtype), batch["frame_mask"])
        return every, mask

    def graph_states(self, backbone: nn.Module, inputs: dict[str, Tensor]) -> tuple[list[Tensor], Tensor]:
        wave, sizes, margin = inputs["samples"], self._sizes, (WINDOW - HOP) // 2
        step = HOP * sizes.stride
        count = torch.div(wave.shape[1] + step - 1, step, rounding_mode="floor") * sizes.stride
        padded = torch.cat([wave.new_zeros(1, margin), wave, wave.new_zeros(1, step + margin)], dim=1)
        power = power_spectra(padded, WINDOW, HOP, SPECTRUM)[:, :, :count].transpose(1, 2)
        frames = (power @ torch.from_numpy(mel_filters(sizes.bands))).clamp(min=QUIETEST).log()
        model: Any = backbone
        every, mask = model(frames, torch.ones_like(frames[..., 0], dtype=torch.bool))
        return every, mask

    def altered(self, features: Features, draw: random.Random) -> Features:
        """Frames shifted in time, louder or softer, with a stretch of time and of bands set to the mean (Park et al., arXiv 1904.08779)."""
        frames = np.array(features["frames"])
        length, bands = frames.shape
        frames = np.roll(frames, draw.randrange(-self.unit, self.unit + 1), axis=0)
        frames += draw.gauss(0, 0.5)
        level = frames.mean(0)
        for _ in range(2):
            wide = draw.randrange(max(1, length // 8))
            start = draw.randrange(length - wide + 1)
            frames[start : start + wide] = level
            tall = draw.randrange(bands // 8 + 1)
            lowest = draw.randrange(bands - tall + 1)
            frames[:, lowest : lowest + tall] = level[lowest : lowest + tall]
        return {"frames": frames, "length": length}

    @cached_property
    def _sizes(self) -> Sizes:
        """The sizes of the base.

        Raises:
            UsageError: its configuration does not say them.
        """
        try:
            config = read_json(self.directory / "config.json")
            values = {name: int(config[name]) for name in asdict(Sizes())}
            if min(values.values()) < 1 or max(values.values()) > 4096 or not values["kernel"] % 2:
                raise ValueError("a size is out of bounds")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"encoder {self.settings.source}: its config.json holds no usable sizes.") from error
        return Sizes(**values)


def _write(target: Path, sizes: Sizes, seed: int, mean: np.ndarray, std: np.ndarray) -> None:
    from safetensors.torch import save_file

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = ConvolutionalBackbone(sizes)
    backbone.mean.data = torch.from_numpy(mean.astype(np.float32))
    backbone.std.data = torch.from_numpy(std.astype(np.float32))
    target.mkdir(parents=True, exist_ok=True)
    (target / "config.json").write_text(
        json.dumps({"model_type": Convolutional.name, **asdict(sizes)}), encoding="utf-8"
    )
    save_file(
        {name: tensor.contiguous() for name, tensor in backbone.state_dict().items()}, target / "model.safetensors"
    )
