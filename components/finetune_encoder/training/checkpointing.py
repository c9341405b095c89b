"""Checkpoints of a fine-tuning: when they are written, which one is resumed from, and when training ends."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from components.finetune_encoder.training.job import PreemptedError
from components.finetune_encoder.training.snapshot import PARTIAL, RANDOM_STATE, STATE, Snapshot, damage, step_of
from mistere.artifacts.checkpoint_writing import BackgroundWriter, CheckpointSchedule
from mistere.artifacts.checkpoints import Checkpoints
from mistere.common.parsing.documents import read_json
from mistere.kubernetes.current_pod import is_inside


class CheckpointWriter(TrainerCallback):
    """Requests a checkpoint when one is due or on SIGTERM, and writes each in a thread while training continues.

    Several processes agree on it at the end of a step, since all of them take part in the snapshot. The first process of each node
    writes the node's folder; the first process of all uploads it, since it is equal on all nodes.

    Args:
        checkpoints: stores the checkpoints.
        seconds: interval between checkpoints within an epoch, or ``auto``.
    """

    def __init__(self, checkpoints: Checkpoints, seconds: float | Literal["auto"]) -> None:
        self._checkpoints = checkpoints
        self._schedule, self._background = CheckpointSchedule(seconds, on_cluster=is_inside()), BackgroundWriter()
        self._terminated = False

    def watch_for_termination(self) -> Any:
        """Install a handler for SIGTERM; returns the previous handler."""
        return signal.signal(signal.SIGTERM, self._on_sigterm)

    def _on_sigterm(self, _signal: int, _frame: Any) -> None:
        self._terminated = True

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        due = state.is_world_process_zero and self._schedule.is_due()
        busy = self._background.busy
        if args.world_size > 1:
            verdict = torch.tensor([due, self._terminated, busy], dtype=torch.float32, device=args.device)
            torch.distributed.all_reduce(verdict, op=torch.distributed.ReduceOp.MAX)
            due, self._terminated, busy = (bool(value > 0) for value in verdict)
        wanted = self._terminated or (due and not busy)
        if wanted and not _at_an_epochs_end(state):  # one is written there anyway, after the evaluation on dev
            control.should_save = True

    def write(self, args: Any, state: TrainerState, take: Callable[[], Snapshot]) -> None:
        """Take a snapshot, and write it in the background; waits for the previous one, so that only one is in memory.

        Args:
            args: the Trainer's arguments.
            state: the Trainer's state.
            take: makes the snapshot.
        """
        clock = time.perf_counter()
        self._schedule.began()
        self._background.wait()
        if not args.should_save:
            return
        snapshot = take()
        paused = time.perf_counter() - clock

        def write() -> None:
            began = time.perf_counter()
            snapshot.write(self._checkpoints.directory)
            if state.is_world_process_zero:
                self._checkpoints.save(snapshot.name)
            self._schedule.measured(paused + time.perf_counter() - began)

        self._background.start(write)

    def wait(self) -> None:
        """Wait until the last checkpoint is written; raises the error of the write."""
        self._background.wait()

    def on_save(self, _args: Any, state: TrainerState, _control: Any, **_: Any) -> None:
        if self._terminated:
            self.wait()
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


def last_whole_checkpoint(directory: Path, note: Callable[[str], None] = lambda _: None) -> Path | None:
    """The newest complete checkpoint, with the path of its best checkpoint corrected for this machine.

    An incomplete or damaged checkpoint is deleted, and so is one whose best checkpoint is gone.

    Args:
        directory: the folder of the checkpoints.
        note: called with a sentence for each damaged checkpoint.
    """
    for folder in directory.glob(f"{PARTIAL}*"):
        shutil.rmtree(folder)
    for folder in directory.glob("checkpoint-*"):
        if reason := damage(folder):
            shutil.rmtree(folder)
            note(
                f"The checkpoint {folder} is damaged ({reason}): training resumes from an earlier one, or from the start."
            )
    for folder in directory.glob("checkpoint-*"):
        state = read_json(folder / STATE)
        step = int(state["best_global_step"] or 0)
        if not step:
            continue
        best = directory / f"checkpoint-{step}"
        if not best.is_dir():
            shutil.rmtree(folder)
        elif state.get("best_model_checkpoint") != str(best):
            partial = folder / f"{STATE}.partial"
            partial.write_text(json.dumps({**state, "best_model_checkpoint": str(best)}), encoding="utf-8")
            partial.replace(folder / STATE)
    last = get_last_checkpoint(str(directory))
    return Path(last) if last else None


def agreed_checkpoint(directory: Path, args: TrainingArguments, note: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that is complete on the machine of every process; newer ones are deleted.

    Nodes differ if one was killed while it wrote a checkpoint, or restarted with an empty disk.

    Args:
        directory: the folder of the checkpoints.
        args: the Trainer's arguments.
        note: called with a sentence for each damaged checkpoint.
    """
    first = args.local_process_index == 0
    last = last_whole_checkpoint(directory, note) if first else None
    if args.world_size == 1:
        return last
    torch.distributed.barrier()
    own = RANDOM_STATE.format(f"_{args.process_index}")
    mine = {step_of(path.parent) for path in directory.glob(f"checkpoint-*/{own}") if (path.parent / STATE).is_file()}
    everyones: list[set[int]] = [set()] * args.world_size
    torch.distributed.all_gather_object(everyones, mine)
    newest = max(set.intersection(*everyones), default=0)
    for folder in directory.glob("checkpoint-*") if first else ():
        if step_of(folder) > newest:
            shutil.rmtree(folder)
    torch.distributed.barrier()
    return directory / f"checkpoint-{newest}" if newest else None
