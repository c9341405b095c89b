"""What fine-tuning and extraction take under the profiles gpu and paper: memory and time, computed.

usage: mistere bench encoder_estimates

An estimate, not a measurement. The backbones are built in their published sizes on torch's meta device (no weight exists), so
that parameters are counted, not quoted; sizes are those of each model's config.json on the hub. Then

- weights: 4 bytes each where they learn and in full fine-tuning, 2 where they are frozen in bf16;
- gradients 4 bytes and AdamW's two moments 8 bytes for each parameter that learns;
- activations of a training batch, bf16, attention without stored scores: for each position and layer 2 · (10 D + 4 F) bytes (D
  the width, F the feed-forward's), of which gradient checkpointing keeps 2 D a layer and one layer in full;
- time: 2 operations a weight and position forward, 2 more for the gradient of the states, 2 for that of weights that learn,
  2 for what checkpointing computes again, at 40 % of the device's dense bf16 peak (NVIDIA's data sheets: RTX 4090 165, A100
  312, H100 SXM 989 TFLOP/s);
- data: MELD's 9,989 train and 13,708 utterances in all, 3.59 s each (Poria et al., arXiv 1810.02508) and 11 tokens (8 words);
  every turn of context adds 11. Batches are by length, so padding is not counted; for memory the longest utterance is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from mistere.config.encoder import EncoderConfig
from pipelines.profiles import load_profile

TFLOPS = {"RTX 4090": 165.0, "A100": 312.0, "H100": 989.0}
SHARE_OF_PEAK = 0.4
TRAIN, ALL = 9_989, 13_708
SECONDS, TOKENS = 3.59, 11.0
PROMPT_TOKENS = 16
MODELS: dict[str, dict[str, Any]] = {
    "hub:microsoft/wavlm-large": {
        "model_type": "wavlm",
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
    },
    "hub:FacebookAI/roberta-large": {
        "model_type": "roberta",
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "vocab_size": 50265,
        "max_position_embeddings": 514,
    },
    "hub:Qwen/Qwen2-Audio-7B": {
        "model_type": "qwen2_audio",
        "audio_config": {
            "num_mel_bins": 128,
            "d_model": 1280,
            "encoder_layers": 32,
            "encoder_attention_heads": 20,
            "encoder_ffn_dim": 5120,
            "max_source_positions": 1500,
        },
        "text_config": {
            "model_type": "qwen2",
            "hidden_size": 4096,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "intermediate_size": 11008,
            "vocab_size": 156032,
        },
    },
    "hub:Qwen/Qwen2.5-7B": {
        "model_type": "qwen2",
        "hidden_size": 3584,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18944,
        "vocab_size": 152064,
    },
}


def build(source: str) -> Any:
    """The full-size backbone on the meta device, without weights."""
    import torch
    from transformers import AutoConfig, AutoModel, Qwen2AudioModel

    values = dict(MODELS[source])
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    with torch.device("meta"):
        return Qwen2AudioModel(config) if config.model_type == "qwen2_audio" else AutoModel.from_config(config)


@dataclass
class Shape:
    """The sizes of a backbone that the estimate needs."""

    parameters: int
    matrices: int
    frozen_tower: int
    learning: int
    width: int
    feed_forward: int
    layers: int


def shape_of(model: Any, settings: EncoderConfig) -> Shape:
    """Count a backbone's parameters, and those trainable under the settings."""
    from torch import nn

    targets = settings.lora.target_modules or ["q_proj", "v_proj"]
    adapters = sum(
        settings.lora.rank * (module.in_features + module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.split(".")[-1] in targets and not name.startswith("audio_tower.")
    )
    parameters = sum(p.numel() for p in model.parameters())
    tower = sum(p.numel() for n, p in model.named_parameters() if n.startswith("audio_tower."))
    lookup = sum(p.numel() for n, p in model.named_parameters() if re.search(r"embed|position_embeddings", n))
    config = getattr(model.config, "text_config", model.config)
    return Shape(
        parameters=parameters,
        matrices=parameters - tower - lookup,
        frozen_tower=tower,
        learning=adapters if settings.tuning in {"lora", "qlora"} else parameters,
        width=config.hidden_size,
        feed_forward=config.intermediate_size,
        layers=config.num_hidden_layers,
    )


def positions(source: str, settings: EncoderConfig, seconds: float, tokens: float) -> float:
    """Positions of an utterance in the backbone's transformer."""
    if "Audio" in source:
        return 25 * seconds + PROMPT_TOKENS
    return 50 * seconds if "wavlm" in source else min(tokens * (1 + settings.context_turns), settings.max_tokens)


def memory_gb(shape: Shape, settings: EncoderConfig, longest: float) -> tuple[float, float]:
    """Peak memory of fine-tuning, and the part allocated before the first batch, in GB."""
    adapters = settings.tuning in {"lora", "qlora"}
    weights = shape.parameters * (2 if adapters else 4)
    state = shape.learning * (4 if adapters else 0) + shape.learning * 12
    a_layer = settings.batch_size * longest * 2 * (10 * shape.width + 4 * shape.feed_forward)
    kept = settings.batch_size * longest * 2 * shape.width * shape.layers
    active = kept + a_layer if settings.gradient_checkpointing else a_layer * shape.layers
    return (weights + state + active) / 1e9, (weights + state) / 1e9


def operations(shape: Shape, settings: EncoderConfig, here: float, training: bool) -> float:
    """Operations for one utterance."""
    tower = 2 * shape.frozen_tower * 2 * here  # at twice the rate, forward only
    if not training:
        return 2 * shape.matrices * here + tower
    times = 2 + 2 + (0 if settings.tuning in {"lora", "qlora"} else 2) + (2 if settings.gradient_checkpointing else 0)
    return times * shape.matrices * here + tower


def main() -> None:
    """Print the table."""
    print(f"{'':<36}{'parameters':>11}{'learn':>9}{'GB at rest':>12}{'GB peak':>9}{'fits':>9}", end="")
    print("".join(f"{name:>22}" for name in TFLOPS))
    for profile in ("gpu", "paper"):
        config = load_profile(profile)
        for modality, settings in (("speech", config.speech), ("text", config.text)):
            shape = shape_of(build(settings.source), settings)
            speech = modality == "speech"
            longest = positions(
                settings.source, settings, settings.max_seconds, settings.max_tokens if not speech else 0
            )
            here = positions(settings.source, settings, SECONDS, TOKENS)
            peak, rest = memory_gb(shape, settings, longest)
            fits = next((f"{size} GB" for size in (24, 40, 80) if peak < 0.9 * size), "no GPU")
            name = f"{profile}: {settings.source.split('/')[-1]}"
            print(
                f"{name:<36}{shape.parameters / 1e6:>9.0f} M{shape.learning / 1e6:>7.1f} M{rest:>12.1f}{peak:>9.1f}{fits:>9}",
                end="",
            )
            for peak_rate in TFLOPS.values():
                rate = SHARE_OF_PEAK * peak_rate * 1e12
                tune = operations(shape, settings, here, True) * TRAIN * settings.epochs / rate / 60
                embed = operations(shape, settings, here, False) * ALL / rate / 60
                print(f"{tune:>10.0f} + {embed:>4.1f} min", end="")
            print()
    print("minutes: fine-tuning over all of its epochs + extraction")


if __name__ == "__main__":
    main()
