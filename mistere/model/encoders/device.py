"""Which device and which precision a setting means on this machine."""

from __future__ import annotations

import torch

from mistere.common.errors import UsageError
from mistere.config.encoder import Device, Precision


def choose_device(setting: Device, where: str) -> torch.device:
    """The device that a setting means here.

    Args:
        setting: ``auto`` takes a GPU where there is one.
        where: the setting's name, for the error.

    Raises:
        UsageError: a GPU is asked for and there is none.
    """
    there = torch.cuda.is_available()
    if setting == "cuda" and not there:
        raise UsageError(
            f"{where}=cuda, but this machine shows no GPU to torch {torch.__version__}: set {where}=auto, or run it where "
            "one is."
        )
    return torch.device("cuda" if there and setting != "cpu" else "cpu")


def training_precision(setting: Precision, device: torch.device, where: str) -> torch.dtype:
    """The precision of a training's matrix products; ``auto`` is half precision on a GPU only.

    Raises:
        UsageError: fp16, which needs a GPU's loss scaling, on a CPU.
    """
    if setting == "float16" and device.type == "cpu":
        raise UsageError(f"{where}=float16 trains on a GPU only: set {where}=bfloat16 or auto.")
    if setting != "auto":
        return _DTYPES[setting]
    return _half_of_gpu() if device.type == "cuda" else torch.float32


def inference_precision(setting: Precision, device: torch.device) -> torch.dtype:
    """The precision of vectors' computation; ``auto`` is half precision on a GPU, float32 on a CPU.

    A CPU may multiply in bf16 too, and with AMX faster; but there the endpoint computes in float32, and its answers are to be
    those that were evaluated.
    """
    if setting != "auto":
        return _DTYPES[setting]
    return _half_of_gpu() if device.type == "cuda" else torch.float32


_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def _half_of_gpu() -> torch.dtype:
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
