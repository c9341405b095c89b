"""Load a backbone through ``transformers`` and refuse weights that do not match their configuration."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mistere.common.errors import UsageError


def load_pretrained(
    auto: Any, directory: Path, *, source: str, dtype: torch.dtype, optional: str = r"^$", four_bits: bool = False
) -> nn.Module:
    """Load a backbone from a folder, in evaluation mode.

    Args:
        auto: class with ``from_pretrained``.
        directory: directory of the configuration and the safetensors weights.
        source: the encoder's ``source`` setting, for errors.
        dtype: type of the weights.
        optional: regular expression on the names of unused weights, which may be missing.
        four_bits: quantise to NF4 (QLoRA, Dettmers et al., arXiv 2305.14314) through bitsandbytes.

    Raises:
        UsageError: the weights do not match the configuration, or bitsandbytes is not installed.
    """
    extra: dict[str, Any] = {"quantization_config": _four_bits(dtype)} if four_bits else {}
    try:
        with _quietly():
            model, report = auto.from_pretrained(
                str(directory),
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                dtype=dtype,
                output_loading_info=True,
                **extra,
            )
    except (RuntimeError, ValueError, KeyError, TypeError, OSError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"encoder {source}: its weights do not load with its config.json ({reason}).") from error
    if mismatched := sorted(map(str, report.get("mismatched_keys") or [])):
        raise UsageError(
            f"encoder {source}: its weights do not have the sizes in its config.json ({mismatched[0]}): download both again."
        )
    missing = sorted(name for name in report.get("missing_keys") or [] if not re.search(optional, name))
    if missing:
        raise UsageError(
            f"encoder {source}: its weights lack {missing[0]} ({len(missing)} missing in all): weights and config.json "
            "belong to different models; download both again."
        )
    loaded: nn.Module = model.eval()
    return loaded


@contextmanager
def _quietly() -> Iterator[None]:
    """Hide transformers' progress bar and its report on missing weights, which :func:`load_pretrained` judges itself.

    Other warnings stay.
    """
    from transformers.utils import logging as transformers_logging

    def keep(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger, bar = logging.getLogger("transformers.modeling_utils"), transformers_logging.is_progress_bar_enabled()
    logger.addFilter(keep)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        logger.removeFilter(keep)
        if bar:
            transformers_logging.enable_progress_bar()


def load_tokenizer(folder: Path, name: str) -> Any:
    """Load the tokenizer of a folder, without running code from it.

    Args:
        folder: the folder.
        name: the encoder's ``source`` setting, for errors.

    Raises:
        UsageError: it does not load.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises plain exceptions; transformers those of many classes
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"encoder {name}: its tokenizer does not load ({reason}); choose another encoder.") from error
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True  # we cut the tokens
    return tokenizer


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
    """Replace 4-bit projections by ordinary ones with the same values."""
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
