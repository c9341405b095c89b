"""The names of SALMONN's published weights, and the base that is made of them.

A folder holds the four parts under the names that they have in SALMONN's own module: ``speech_encoder.`` (Whisper's encoder),
``beats.``, ``llama_model.`` and, under the names of the published checkpoint, what SALMONN trained: ``ln_speech``, ``ln_audio``,
``speech_query_tokens``, ``speech_Qformer.bert``, ``speech_llama_proj`` and the adapters of LLaMA, which are merged into it here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from mistere.common.errors import UsageError
from mistere.common.parsing.documents import read_json

_PARTS: Final = {
    "speech_encoder.": "Whisper's encoder",
    "ln_speech.": "the norm of Whisper's states",
    "beats.": "BEATs",
    "ln_audio.": "the norm of BEATs's states",
    "speech_query_tokens": "the query of the Q-Former",
    "speech_Qformer.": "the Q-Former",
    "speech_llama_proj.": "the projection",
    "language_model.": "LLaMA",
}
"""What a base holds, by the beginning of the names."""
_UNUSED: Final = re.compile(
    r"beats\.predictor\."
    r"|beats\.encoder\.layers\.[1-9]\d*\.self_attn\.relative_attention_bias\."  # the first layer's once more
    r"|speech_Qformer\.cls\."
    r"|speech_Qformer\.bert\.embeddings\.(?!LayerNorm\.)"
    r"|speech_Qformer\.bert\.encoder\.layer\.\d+\.(?:intermediate|output)\."  # for text, which it does not read
    r"|llama_model\.(?:.*\.)?(?:lm_head\.|rotary_emb\.)"
)
_LLAMA: Final = re.compile(r"^llama_model\.(?:base_model\.model\.)?model\.")
_FACTOR: Final = re.compile(r"^(?P<module>.+)\.lora_(?P<factor>[AB])(?:\.default)?\.weight$")
KEPT_NAMES: Final = (
    rf"^(?!{_UNUSED.pattern})(?!.+\.lora_[AB]\.)"
    r"(?:(?:speech_encoder|ln_speech|beats|ln_audio|speech_Qformer|speech_llama_proj)\.|speech_query_tokens"
    r"|llama_model\.(?:base_model\.model\.)?model\.)"
)
"""Pattern of the names in SALMONN's own module that a base holds: adapters are merged into the weights that they adapt."""
_CONFIGS: Final = ("whisper_config", "beats_config", "text_config")
_BEATS: Final = {
    "deep_norm": True,
    "layer_norm_first": False,
    "relative_position_embedding": True,
    "gru_rel_pos": True,
    "activation_fn": "gelu",
}
"""Settings of a published BEATs that its network here depends on."""
_ALPHA: Final = 32
_PICKLES: Final = (".pt", ".pth", ".bin", ".ckpt")


def stored_name(name: str) -> str | None:
    """The name of a weight in the base, by its name in SALMONN's own module; None if the base does not hold it."""
    if _UNUSED.match(name):
        return None
    name = _LLAMA.sub("language_model.", name).replace(".base_layer.", ".")
    if name.startswith("speech_Qformer.bert."):
        name = name.replace(".bert.embeddings.LayerNorm.", ".layernorm.").replace(".bert.", ".")
        name = name.replace("attention.self.", "attention.attention.")
    return name if name.startswith(tuple(_PARTS)) else None


def export_weights(source: Path, target: Path) -> None:
    """Write the base's weights, shard by shard as the source has them, with one of them in memory at a time.

    Args:
        source: folder with ``config.json`` and safetensors; pickles are not read.
        target: a folder that exists.

    Raises:
        UsageError: a part is missing, or the configuration does not describe it.
    """
    from safetensors.torch import save_file

    scale_by = _checked_alpha(source)
    adapters: dict[str, dict[str, Tensor]] = {}
    for shard in _shards(source):
        for name, tensor in _tensors(shard, adapters_only=True):
            match = _FACTOR.match(name)
            assert match is not None
            adapters.setdefault(match["module"], {})[match["factor"]] = tensor
    files: dict[str, str] = {}
    size = 0
    for shard in _shards(source):
        tensors: dict[str, Tensor] = {}
        for name, tensor in _tensors(shard, adapters_only=False):
            factors = adapters.pop(name.removesuffix(".weight"), None)
            tensors[name] = tensor if factors is None else _merged(source, name, tensor, factors, scale_by)
        if tensors:
            save_file(tensors, target / shard.name, metadata={"format": "pt"})
            files |= dict.fromkeys(tensors, shard.name)
            size += sum(tensor.nbytes for tensor in tensors.values())
    for beginning, part in _PARTS.items():
        if not any(name.startswith(beginning) for name in files):
            raise UsageError(f"encoder {source}: its safetensors lack {part}{_advice(source)}.")
    if adapters:
        raise UsageError(f"encoder {source}: it has an adapter of {min(adapters)}, but not the weights that it adapts.")
    if set(files.values()) - {"model.safetensors"}:
        index = {"metadata": {"total_size": size}, "weight_map": files}
        (target / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _shards(source: Path) -> list[Path]:
    return sorted(source.glob("*.safetensors"))


def _tensors(shard: Path, *, adapters_only: bool) -> Iterator[tuple[str, Tensor]]:
    """The factors of adapters in a file, or its other weights, by their names in the base."""
    from safetensors import safe_open

    with safe_open(shard, "pt") as opened:
        for name in opened.keys():  # noqa: SIM118  (not a mapping)
            stored = stored_name(name)
            if stored is not None and bool(_FACTOR.match(stored)) == adapters_only:
                yield stored, opened.get_tensor(name)


def _merged(source: Path, name: str, weight: Tensor, factors: dict[str, Tensor], alpha: float) -> Tensor:
    """``weight + alpha / rank · B A`` (LoRA, Hu et al., arXiv 2106.09685)."""
    try:
        down, up = factors["A"], factors["B"]
        return (weight.float() + alpha / len(down) * (up.float() @ down.float())).to(weight.dtype)
    except (KeyError, RuntimeError, ZeroDivisionError) as error:
        raise UsageError(f"encoder {source}: the adapter of {name} does not fit its weights.") from error


def _checked_alpha(source: Path) -> float:
    """``lora_alpha`` of the configuration, which is checked.

    Raises:
        UsageError: it does not describe the parts, or describes others.
    """
    config: Any = read_json(source / "config.json")
    for name in _CONFIGS:
        if not isinstance(config.get(name), dict):
            raise UsageError(
                f"encoder {source}: its config.json has no {name}; write it as docs/guides/encoders.md says (SALMONN)."
            )
    for name, needed in _BEATS.items():
        given = config["beats_config"].get(name, needed)
        if given != needed:
            raise UsageError(
                f"encoder {source}: beats_config.{name} is {given!r}; only BEATs models with {needed!r} are read."
            )
    alpha = config.get("lora_alpha", _ALPHA)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < 1e4:
        raise UsageError(f"encoder {source}: lora_alpha of its config.json is no positive number.")
    return float(alpha)


def _advice(source: Path) -> str:
    pickles = sorted(file.name for file in source.iterdir() if file.suffix in _PICKLES)
    if not pickles:
        return "; add it as docs/guides/encoders.md says (SALMONN)"
    return (
        f", and {pickles[0]} is a pickle, which is never loaded: convert it as docs/guides/encoders.md says (SALMONN)"
    )


def published_name(name: str) -> str:
    """The name of a weight in SALMONN's own module, by its name in the base."""
    name = name.replace("speech_Qformer.layernorm.", "speech_Qformer.embeddings.LayerNorm.")
    name = name.replace("attention.attention.", "attention.self.").replace("speech_Qformer.", "speech_Qformer.bert.")
    return name.replace("language_model.", "llama_model.model.")


def random_adapters(weights: dict[str, Tensor], rank: int) -> dict[str, Tensor]:
    """Adapters of LLaMA's ``q_proj`` and ``v_proj`` under their published names, for tests."""
    factors: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if match := re.match(r"language_model\.(.+self_attn\.[qv]_proj)\.weight$", name):
            module = f"llama_model.base_model.model.model.{match[1]}"
            factors[f"{module}.lora_A.default.weight"] = 0.02 * torch.randn(rank, weight.shape[1])
            factors[f"{module}.lora_B.default.weight"] = 0.02 * torch.randn(weight.shape[0], rank)
    return factors
