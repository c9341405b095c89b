"""Loading a backbone through ``transformers``, strictly: weights that do not fit their configuration are refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mistere.common.errors import UsageError


def load_pretrained(
    auto: Any, directory: Path, *, source: str, dtype: torch.dtype, optional: str = r"^$", four_bits: bool = False
) -> nn.Module:
    """A backbone from a folder, in evaluation mode.

    Args:
        auto: the class with ``from_pretrained``.
        directory: configuration and safetensors weights.
        source: how the configuration names it, for errors.
        dtype: of the weights.
        optional: weights that may be missing, because they are not used, as a regular expression on their names.
        four_bits: quantise to NF4 (QLoRA, Dettmers et al., arXiv 2305.14314) through bitsandbytes.

    Raises:
        UsageError: the weights are not those of the configuration, or bitsandbytes is not there.
    """
    extra: dict[str, Any] = {"quantization_config": _four_bits(dtype)} if four_bits else {}
    try:
        model, report = auto.from_pretrained(
            str(directory),
            use_safetensors=True,
            local_files_only=True,
            dtype=dtype,
            output_loading_info=True,
            **extra,
        )
    except (RuntimeError, ValueError, KeyError, TypeError, OSError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"encoder {source}: its weights do not load with its config.json ({reason}).") from error
    if mismatched := sorted(map(str, report.get("mismatched_keys") or [])):
        raise UsageError(
            f"encoder {source}: its weights are not of the sizes its config.json says ({mismatched[0]}): fetch both anew."
        )
    missing = sorted(name for name in report.get("missing_keys") or [] if not re.search(optional, name))
    if missing:
        raise UsageError(
            f"encoder {source}: its weights lack {missing[0]} ({len(missing)} missing in all): they are of another model "
            "than its config.json."
        )
    loaded: nn.Module = model.eval()
    return loaded


def _four_bits(dtype: torch.dtype) -> Any:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "tuning=qlora needs bitsandbytes: pip install bitsandbytes==0.50.2, or set tuning=lora."
        ) from error
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def dequantise(model: nn.Module, dtype: torch.dtype) -> None:
    """Replace projections of 4 bits by ordinary ones of the very values they compute with."""
    for name, module in list(model.named_modules()):
        if type(module).__name__ != "Linear4bit":
            continue
        from bitsandbytes.functional import dequantize_4bit

        quantised: Any = module
        weight = dequantize_4bit(quantised.weight.data, quantised.weight.quant_state).to(dtype)
        plain = nn.Linear(weight.shape[1], weight.shape[0], bias=quantised.bias is not None, device="meta")
        plain.weight = nn.Parameter(weight)
        if quantised.bias is not None:
            plain.bias = nn.Parameter(quantised.bias.data.to(dtype))
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, plain)
