"""Resolve the device and precision settings for this machine."""

from __future__ import annotations

import torch

from mistere.common.errors import UsageError
from mistere.config.encoder import Device, Precision


def choose_device(setting: Device, where: str) -> torch.device:
    """Resolve a device setting.

    Args:
        setting: ``auto`` uses a GPU if there is one.
        where: name of the setting, for the error.

    Raises:
        UsageError: the setting requires a GPU and there is none.
    """
    has_gpu = torch.cuda.is_available()
    if setting == "cuda" and not has_gpu:
        raise UsageError(
            f"{where}=cuda, but torch {torch.__version__} finds no GPU on this machine: set {where}=auto, or run on a "
            "machine with a GPU."
        )
    return torch.device("cuda" if has_gpu and setting != "cpu" else "cpu")


def training_precision(setting: Precision, device: torch.device, where: str) -> torch.dtype:
    """Precision of the matrix products in training; ``auto`` is half precision on a GPU, float32 on a CPU.

    Raises:
        UsageError: fp16 on a CPU; its loss scaling needs a GPU.
    """
    if setting == "float16" and device.type == "cpu":
        raise UsageError(f"{where}=float16 trains on a GPU only: set {where}=bfloat16 or auto.")
    if setting != "auto":
        return _DTYPES[setting]
    return _half_of_gpu() if device.type == "cuda" else torch.float32


def inference_precision(setting: Precision, device: torch.device) -> torch.dtype:
    """Precision of the extraction of vectors; ``auto`` is half precision on a GPU, float32 on a CPU.

    A CPU with AMX is faster in bf16, but the endpoint computes in float32 on a CPU, and the evaluated vectors must be the
    served ones.
    """
    if setting != "auto":
        return _DTYPES[setting]
    return _half_of_gpu() if device.type == "cuda" else torch.float32


_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def _half_of_gpu() -> torch.dtype:
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
