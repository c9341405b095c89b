"""The state of a training at one step, copied to memory and then written as the Trainer's checkpoint folder.

Copying takes a fraction of a second; writing and uploading take longer and happen in a thread meanwhile
(:class:`mistere.artifacts.checkpoint_writing.BackgroundWriter`). The copy needs host memory for the trainable parameters and the
optimiser's state, 12 bytes a parameter with AdamW in float32.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from mistere.artifacts.manifest import canonical_digest
from mistere.common.digests.files import digest_of
from mistere.common.parsing.documents import read_json

if TYPE_CHECKING:
    from transformers import TrainerState

WEIGHTS: Final = "model.safetensors"
LOSSES: Final = "losses.json"
STATE: Final = "trainer_state.json"
RANDOM_STATE: Final = "rng_state{}.pth"
"""File with the random state of a process: no suffix for a single one, ``_RANK`` for one of several."""
DIGESTS: Final = "digests.json"
"""File with the digest of every other file of a checkpoint."""
PARTIAL: Final = "partial-"
"""Prefix of a checkpoint's folder while its files are written or deleted."""
_KEPT: Final = 2


def checkpoint_name(step: int) -> str:
    """Name of the checkpoint after an optimiser step."""
    return f"checkpoint-{step}"


def step_of(checkpoint: Path) -> int:
    """The optimiser step of a checkpoint."""
    return int(checkpoint.name.rpartition("-")[2])


def digests(checkpoint: Path) -> dict[str, str]:
    """The digest of each file of a checkpoint, by its name.

    That of the Trainer's state leaves out the path of the best checkpoint, which is corrected on every machine.

    Raises:
        OSError: a file cannot be read.
        ValueError: the Trainer's state is not JSON.
    """
    found = {}
    for file in sorted(checkpoint.iterdir()):
        if file.name == STATE:
            found[file.name] = canonical_digest({**read_json(file), "best_model_checkpoint": None})
        elif file.name != DIGESTS:
            found[file.name] = digest_of(file)
    return found


def damage(checkpoint: Path) -> str:
    """What is wrong with a checkpoint's files, as a clause; empty if they are as they were written."""
    try:
        recorded = read_json(checkpoint / DIGESTS)
    except (OSError, ValueError):
        return f"{DIGESTS} is missing or damaged"
    try:
        current = digests(checkpoint)
    except (OSError, ValueError, TypeError):
        return f"{STATE} is damaged"
    if current == recorded:
        return ""
    if not isinstance(recorded, dict):
        return f"{DIGESTS} is damaged"
    return f"{min(name for name in {*current, *recorded} if current.get(name) != recorded.get(name))} is missing or damaged"


def random_state(*, every_device: bool) -> dict[str, Any]:
    """The states of this process's random number generators, as the Trainer reads them.

    Args:
        every_device: include all GPUs of the machine rather than the current one, as the Trainer does with several processes.
    """
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "cpu": torch.random.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.random.get_rng_state_all() if every_device else torch.cuda.random.get_rng_state()
    return states


def copied(value: Any) -> Any:
    """A deep copy with all tensors in host memory, which later optimiser steps do not change."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True).contiguous()
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(copied(item) for item in value)
    return copy.deepcopy(value)


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A copy of everything that training needs to go on from a step.

    Attributes:
        state: the Trainer's state as JSON.
        step: the optimiser step.
        best_step: the step with the best result on dev so far; 0 for none.
        weights: the trainable parameters by name.
        losses: the sums of the training loss.
        states: further state by file name, written with :func:`torch.save`.
    """

    state: str
    step: int
    best_step: int
    weights: Mapping[str, Tensor]
    losses: Mapping[str, Any]
    states: Mapping[str, Any]

    @classmethod
    def of(
        cls, state: TrainerState, weights: Mapping[str, Tensor], losses: Mapping[str, Any], states: Mapping[str, Any]
    ) -> Snapshot:
        """Copy the state of a training."""
        return cls(
            state=json.dumps(dataclasses.asdict(state), indent=2, sort_keys=True) + "\n",
            step=state.global_step,
            best_step=state.best_global_step or 0,
            weights=copied(dict(weights)),
            losses=copied(dict(losses)),
            states=copied(dict(states)),
        )

    @property
    def name(self) -> str:
        """Name of the checkpoint."""
        return checkpoint_name(self.step)

    def write(self, directory: Path) -> None:
        """Write the checkpoint to ``directory`` and delete the ones that it replaces.

        The folder gets its name when all files are in it. Two are kept: the newest, and the best or else the one before.
        """
        partial = directory / f"{PARTIAL}{self.name}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(dict(self.weights), partial / WEIGHTS, metadata={"format": "pt"})
        (partial / LOSSES).write_text(json.dumps(self.losses), encoding="utf-8")
        for name, value in self.states.items():
            torch.save(value, partial / name)
        (partial / STATE).write_text(self.state, encoding="utf-8")
        (partial / DIGESTS).write_text(json.dumps(digests(partial), indent=1), encoding="utf-8")
        shutil.rmtree(directory / self.name, ignore_errors=True)
        partial.rename(directory / self.name)
        needed = {checkpoint_name(self.best_step) if self.best_step else self.name, self.name}
        others = sorted((path for path in directory.glob("checkpoint-*") if path.name not in needed), key=step_of)
        for path in others[: len(others) - (_KEPT - len(needed))]:
            leaving = path.rename(
                path.with_name(f"{PARTIAL}{path.name}")
            )  # never a checkpoint that lacks some of its files
            shutil.rmtree(leaving)
