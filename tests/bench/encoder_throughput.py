"""Fine-tuning and extraction of the GPU profiles' encoders on this GPU, with random weights of their real sizes.

usage: mistere bench encoder_throughput

For each encoder of the profiles gpu and paper: one optimiser step's micro-batch forward and backward under the profile's tuning
and precision, and one extraction batch, on synthetic utterances; in audio-seconds or tokens a second, as a share of what a large
bf16 matrix product reaches on the same device in the same run, with the peak of its memory. Weights do not matter for speed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.finetune_encoder.training.trainable import choose_trainable
from mistere.common.errors import UsageError
from mistere.common.modalities import IMPLICIT_KINDS
from mistere.config.encoder import EncoderConfig
from mistere.model.encoders.families import family_of
from mistere.model.encoders.utterance_encoder import UtteranceEncoder
from pipelines.profiles import load_profile
from tests.bench.encoder_estimates import MODELS, PROMPT_TOKENS, operations, positions, shape_of

SECONDS, TOKENS = 4.0, 64
ROUNDS = 5


def peak_of(device: torch.device, size: int = 8192) -> float:
    """Operations per second of a square bf16 matrix product."""
    one = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    return 2 * size**3 / timed(lambda: one @ one, device)


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Mean seconds per call over several calls after a warm-up."""
    work()
    wait(device)
    clock = time.perf_counter()
    for _ in range(ROUNDS):
        work()
    wait(device)
    return (time.perf_counter() - clock) / ROUNDS


def wait(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def encoder_of(source: str, settings: EncoderConfig, modality: str, device: torch.device) -> UtteranceEncoder:
    """An encoder with random weights, created on the device."""
    values = dict(MODELS[source])
    kind = values.pop("model_type")
    half = settings.tuning in {"lora", "qlora"}

    class Random(family_of(kind, IMPLICIT_KINDS[modality])):  # type: ignore[misc]
        """The family with a backbone that was never trained."""

        def load_backbone(self) -> nn.Module:
            from transformers import AutoConfig, AutoModel, Qwen2AudioModel

            config = AutoConfig.for_model(kind, **values)
            with torch.device(device):
                model: Any = Qwen2AudioModel(config) if kind == "qwen2_audio" else AutoModel.from_config(config)
            if kind == "qwen2_audio":
                model.audio_tower.requires_grad_(False)
            if getattr(model, "masked_spec_embed", None) is not None:
                model.masked_spec_embed.requires_grad_(False)
            if getattr(model, "pooler", None) is not None:
                model.pooler = None
            loaded: nn.Module = model.to(torch.bfloat16 if half else torch.float32)
            return loaded

    encoder = UtteranceEncoder(Random(Path(), settings), settings, 7).to(device)
    choose_trainable(encoder, settings)
    return encoder


def batch_of(source: str, size: int, device: torch.device) -> dict[str, Tensor]:
    """A synthetic batch of ``size`` utterances."""
    samples = int(SECONDS * 16000)
    if "wavlm" in source:
        return {
            "samples": torch.randn(size, samples, device=device),
            "sample_mask": torch.ones(size, samples, dtype=torch.bool, device=device),
        }
    length = int(25 * SECONDS) + PROMPT_TOKENS if "Audio" in source else TOKENS
    tokens = torch.randint(10, 1000, (size, length), device=device)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    batch = {"input_ids": tokens, "mask": mask, "pooled": mask}
    if "Audio" in source:
        frames = int(100 * SECONDS)
        heard = torch.arange(length, device=device).expand(size, -1) >= PROMPT_TOKENS
        batch |= {
            "frames": torch.randn(size, frames, 128, device=device),
            "frame_mask": torch.ones(size, frames, dtype=torch.bool, device=device),
            "heard": heard,
            "pooled": heard,
        }
    return batch


def measure(profile: str, modality: str, device: torch.device, peak: float) -> None:
    """Print one encoder's line."""
    settings: EncoderConfig = getattr(load_profile(profile), modality)
    speech = modality == "speech"
    unit, each = ("audio-s/s", SECONDS) if speech else ("tokens/s", float(TOKENS))
    encoder = encoder_of(settings.source, settings, modality, device)
    shape = shape_of(encoder.backbone, settings)
    # The count includes adapters, which add less than 1 % of the operations.
    here = positions(settings.source, settings.model_copy(update={"context_turns": 0}), SECONDS, TOKENS)
    step = batch_of(settings.source, settings.batch_size, device)
    budget = settings.extraction.batch_seconds / SECONDS if speech else settings.extraction.batch_tokens / TOKENS
    large = batch_of(settings.source, max(1, int(budget)), device)

    def tune() -> None:
        encoder.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16):
            encoder(step).float().square().mean().backward()

    def embed() -> None:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
            encoder.embed(large)

    for name, work, size, training in (
        ("fine-tuning", tune, settings.batch_size, True),
        ("extraction", embed, max(1, int(budget)), False),
    ):
        encoder.train(training)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seconds = timed(work, device)
        memory = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else 0.0
        share = operations(shape, settings, here, training) * size / seconds / peak
        print(
            f"{profile:<6} {settings.source.split('/')[-1]:<16} {name:<12} batch {size:<4} "
            f"{size * each / seconds:>10.0f} {unit:<10} {100 * share:>5.0f} % of the matrix peak, {memory:>6.1f} GB",
            flush=True,
        )


def main() -> None:
    """Measure all of them.

    Raises:
        UsageError: there is no GPU.
    """
    if not torch.cuda.is_available():
        raise UsageError("encoder_throughput measures a GPU and this machine shows none to torch.")
    device = torch.device("cuda")
    peak = peak_of(device)
    print(f"{torch.cuda.get_device_name(device)}: a product of bf16 matrices reaches {peak / 1e12:.0f} TFLOP/s")
    for profile in ("gpu", "paper"):
        for modality in ("speech", "text"):
            measure(profile, modality, device, peak)
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
