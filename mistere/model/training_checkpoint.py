"""The checkpoint of a training: one safetensors file with weights, optimiser state, best weights and progress."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mistere.common.errors import UsageError
from mistere.common.parsing.documents import ParseError, load_json

CHECKPOINT = "epoch"
"""Name of the file in the folder of checkpoints."""


@dataclass
class TrainingState:
    """The state of a training between two epochs.

    Attributes:
        model: weights.
        best: weights of the best epoch; empty before the first, and where they are those that are evaluated now.
        average: the moving average of the weights; empty if there is none.
        optimizer: per index of a weight, the optimiser's tensors.
        facts: what is no tensor, as JSON values.
    """

    model: dict[str, Tensor]
    best: dict[str, Tensor] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


def write_checkpoint(state: TrainingState, directory: Path) -> int:
    """Write a checkpoint to a temporary file and rename it over the old one; returns its size in bytes.

    The optimiser's state is two thirds of it: Adam's moments depend on all gradients so far, so nothing less continues the
    training exactly.
    """
    from safetensors.torch import save_file

    tensors = {
        f"{part}.{name}": tensor
        for part, named in (("model", state.model), ("best", state.best), ("average", state.average))
        for name, tensor in named.items()
    }
    for index, values in state.optimizer.items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in values.items()}
    partial, facts = directory / f"{CHECKPOINT}.partial", json.dumps(state.facts)
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        partial,
        metadata={"facts": facts, "digest": _digest(tensors, facts)},
    )
    size = partial.stat().st_size
    partial.replace(directory / CHECKPOINT)
    return size


def read_checkpoint(directory: Path, shapes: dict[str, torch.Size]) -> TrainingState | None:
    """Read a checkpoint; None if there is none, or it is damaged.

    Args:
        directory: folder of the checkpoints.
        shapes: shape of each weight of the model.

    Raises:
        UsageError: it is of a model of another shape.
    """
    from safetensors import SafetensorError, safe_open

    file = directory / CHECKPOINT
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as tensors:
            metadata = tensors.metadata() or {}
            loaded = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
            if metadata.get("digest", "") not in (
                "",
                _digest(loaded, metadata["facts"]),
            ):  # earlier releases wrote none
                return None
            facts = load_json(metadata["facts"])
    except (SafetensorError, ParseError, KeyError):
        return None  # training restarts from epoch 0 and gives the same result
    model = _below(loaded, "model.")
    if {name: tensor.shape for name, tensor in model.items()} != shapes:
        raise UsageError(
            f"{file}: the checkpoint is of a model of another shape; delete it, or choose another output folder."
        )
    optimizer: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _below(loaded, "optimizer.").items():
        index, _, value = name.partition(".")
        optimizer.setdefault(int(index), {})[value] = tensor
    return TrainingState(model, _below(loaded, "best."), _below(loaded, "average."), optimizer, facts)


def _digest(tensors: dict[str, Tensor], facts: str) -> str:
    """Digest of tensors by name, type and shape, and of the facts: safetensors notices a truncated file, but not a changed byte."""
    digest = hashlib.blake2b(facts.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}{tensor.dtype}{list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
