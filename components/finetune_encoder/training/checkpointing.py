"""Checkpoints of a fine-tuning: when they are written, which one is resumed from, and when training ends."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from mistere.artifacts.checkpoints import Checkpoints
from mistere.common.errors import MistereError

_RANDOM_STATE = "rng_state_{}.pth"
_STATE = "trainer_state.json"


class PreemptedError(MistereError):
    """The process was terminated (SIGTERM) after it wrote a checkpoint."""


class CheckpointWriter(TrainerCallback):
    """Requests a checkpoint if the last one is old or on SIGTERM, and uploads each.

    Several processes agree on it at the end of a step, since all of them take part in writing. On several nodes each node
    uploads the random states of its processes; the first node uploads everything else, which is equal on all nodes.

    Args:
        checkpoints: stores the checkpoints.
        seconds: interval between checkpoints within an epoch.
    """

    def __init__(self, checkpoints: Checkpoints, seconds: float) -> None:
        self._checkpoints, self._seconds = checkpoints, seconds
        self._written = time.monotonic()
        self._terminated = False

    def watch_for_termination(self) -> Any:
        """Install a handler for SIGTERM; returns the previous handler."""
        return signal.signal(signal.SIGTERM, self._on_sigterm)

    def _on_sigterm(self, _signal: int, _frame: Any) -> None:
        self._terminated = True

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        wanted = self._terminated or time.monotonic() - self._written >= self._seconds
        if args.world_size > 1:
            verdict = torch.tensor([float(wanted), float(self._terminated)], device=args.device)
            torch.distributed.all_reduce(verdict, op=torch.distributed.ReduceOp.MAX)
            wanted, self._terminated = bool(verdict[0] > 0), bool(verdict[1] > 0)
        if wanted and not _at_an_epochs_end(state):  # one is written there anyway, after the evaluation on dev
            control.should_save = True

    def on_save(self, args: Any, state: TrainerState, _control: Any, **_: Any) -> None:
        name = f"checkpoint-{state.global_step}"
        if args.world_size > 1:
            torch.distributed.barrier()  # each process writes its part
        if args.save_on_each_node:
            if state.is_local_process_zero and not state.is_world_process_zero:
                self._checkpoints.send(name, _RANDOM_STATE.format("*"))
            torch.distributed.barrier()  # complete only with the part of every node
        if state.is_world_process_zero:
            self._checkpoints.save(name)
        self._written = time.monotonic()
        if self._terminated:
            raise PreemptedError(
                f"stopped by SIGTERM after step {state.global_step} of {state.max_steps}, which is kept: run again to "
                "resume from there."
            )


class Patience(TrainerCallback):
    """Early stopping on dev weighted F1."""

    def __init__(self, patience: int) -> None:
        self._patience = patience

    def on_save(self, _args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        if is_over(state, self._patience):
            control.should_training_stop = True


def _steps_an_epoch(state: TrainerState) -> int:
    return max(1, round(state.max_steps / state.num_train_epochs))


def _at_an_epochs_end(state: TrainerState) -> bool:
    return state.global_step % _steps_an_epoch(state) == 0


def is_over(state: TrainerState, patience: int) -> bool:
    """Whether training has run all epochs, or ``patience`` epochs since the best one.

    It depends only on the recorded state, so that a resumed run stops where an uninterrupted one does.
    """
    if state.max_steps and state.global_step >= state.max_steps:
        return True
    if not state.best_global_step:
        return False
    return (state.global_step - state.best_global_step) // _steps_an_epoch(state) >= patience


def last_whole_checkpoint(directory: Path) -> Path | None:
    """The newest complete checkpoint, with the path of its best checkpoint corrected for this machine.

    An incomplete checkpoint (its state is written last) is deleted, and so is one whose best checkpoint is gone.
    """
    for folder in directory.glob("checkpoint-*"):
        try:
            state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
            step = state["best_global_step"]
        except (OSError, ValueError, LookupError, TypeError):
            shutil.rmtree(folder)
            continue
        if not step:
            continue
        best = directory / f"checkpoint-{step}"
        if not (best / "model.safetensors").is_file():
            shutil.rmtree(folder)
        elif state.get("best_model_checkpoint") != str(best):
            partial = folder / f"{_STATE}.partial"
            partial.write_text(json.dumps({**state, "best_model_checkpoint": str(best)}), encoding="utf-8")
            partial.replace(folder / _STATE)
    last = get_last_checkpoint(str(directory))
    return Path(last) if last else None


def agreed_checkpoint(directory: Path, args: TrainingArguments) -> Path | None:
    """The newest checkpoint that is complete on the machine of every process; newer ones are deleted.

    Nodes differ if one was killed while it wrote a checkpoint, or restarted with an empty disk.
    """
    first = args.local_process_index == 0
    last = last_whole_checkpoint(directory) if first else None
    if args.world_size == 1:
        return last
    torch.distributed.barrier()
    own = _RANDOM_STATE.format(args.process_index)
    mine = {_step_of(path.parent) for path in directory.glob(f"checkpoint-*/{own}") if (path.parent / _STATE).is_file()}
    everyones: list[set[int]] = [set()] * args.world_size
    torch.distributed.all_gather_object(everyones, mine)
    newest = max(set.intersection(*everyones), default=0)
    for folder in directory.glob("checkpoint-*") if first else ():
        if _step_of(folder) > newest:
            shutil.rmtree(folder)
    torch.distributed.barrier()
    return directory / f"checkpoint-{newest}" if newest else None


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])
