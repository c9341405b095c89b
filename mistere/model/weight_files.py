"""Weights from a safetensors file that may come from an attacker: compared with what is expected before memory is allocated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mistere.common.errors import ArtifactError
from mistere.common.parsing.documents import first_line

OTHER_MODEL = "use a model that a run of the pipeline made, or run it again to make this one"
"""The remedy for files that are intact but hold no usable model."""


def read_weights(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file and its metadata; they take as much memory as the file.

    Raises:
        ArtifactError: it cannot be read, or a tensor holds NaN or infinity.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (no mapping)
            metadata = dict(opened.metadata() or {})
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError) as error:
        raise ArtifactError(f"{file} holds no weights ({first_line(error)})", OTHER_MODEL) from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ArtifactError(f"{file} holds NaN or infinity in {name[:100]}", OTHER_MODEL)
    return tensors, metadata


def check_weights(file: Path, weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Compare names, shapes and types of weights with those of a model, which may be on torch's device ``meta``.

    Raises:
        ArtifactError: they differ; the message names the first difference.
    """
    for name in sorted({*weights, *expected}):
        if name not in weights or name not in expected:
            raise ArtifactError(
                f"{file} does not fit its model: {name[:100]} is {'missing' if name in expected else 'unknown'}",
                OTHER_MODEL,
            )
        given, wanted = weights[name], expected[name]
        if (given.shape, given.dtype) != (wanted.shape, wanted.dtype):
            raise ArtifactError(
                f"{file} does not fit its model: {name[:100]} is {given.dtype} {list(given.shape)}, expected {wanted.dtype} "
                f"{list(wanted.shape)}",
                OTHER_MODEL,
            )
