"""What a checkpoint costs a fine-tuning, and what a lost node costs with the interval that follows from it.

usage: mistere bench checkpoint_cost [PROFILE] [SETTING ...]      (default: sample)

The text encoder of the profile is made trainable as in a run and makes three optimiser steps. Then its checkpoint is written five
times, as the stage does: training pauses for the snapshot in memory, a thread writes the files. The median times are reported, and
the interval within an epoch that the setting ``checkpoint_seconds: auto`` has on a cluster, which is the most work that a lost
node costs. Without an upload: a store adds the time for the checkpoint's size at its bandwidth.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from transformers import TrainerState

from components.finetune_encoder.training.encoder_trainer import trainable
from components.finetune_encoder.training.snapshot import RANDOM_STATE, Snapshot, random_state
from components.finetune_encoder.training.trainable import choose_trainable
from mistere.artifacts.checkpoint_writing import LARGEST_SHARE, CheckpointSchedule
from mistere.artifacts.object_store import LocalStore
from mistere.data.dataset import Utterance
from mistere.data.kinds import kind_of
from mistere.model.encoders.families import families
from mistere.model.encoders.sources import resolve_base
from mistere.model.encoders.utterance_encoder import UtteranceEncoder
from pipelines.profiles import load_profile

_ROUNDS, _STEPS = 5, 3


def main(arguments: list[str]) -> None:
    """Measure and print."""
    profile, settings = arguments[0] if arguments else "sample", arguments[1:]
    config = load_profile(profile, settings).text
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        base = resolve_base(config, "text", LocalStore(scratch / "store"))
        family = families()[base.manifest.family](base.path, config)
        model = UtteranceEncoder(family, config, 7)
        choose_trainable(model, config)
        learning = trainable(model)
        optimizer = torch.optim.AdamW(learning.values(), lr=1e-5)
        utterance = Utterance("dialogue", 0, "", "Where were you? I waited all evening.", None)
        batch = family.collate(
            [family.prepare(kind_of("text").encoder_input(utterance.text or "", config)) for _ in range(8)]
        )
        for _ in range(_STEPS):
            model(batch).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        pauses, writes = list[float](), list[float]()
        for step in range(1, _ROUNDS + 1):
            clock = time.perf_counter()
            states = {"optimizer.pt": optimizer.state_dict(), RANDOM_STATE.format(""): random_state(every_device=False)}
            snapshot = Snapshot.of(TrainerState(global_step=step), learning, {}, states)
            pauses.append(time.perf_counter() - clock)
            snapshot.write(scratch / "checkpoints")
            writes.append(time.perf_counter() - clock - pauses[-1])
        folder = scratch / "checkpoints" / snapshot.name
        size = sum(file.stat().st_size for file in folder.iterdir())
    pause, write = median(pauses), median(writes)
    schedule = CheckpointSchedule("auto", on_cluster=True)
    schedule.measured(pause + write)
    parameters = sum(parameter.numel() for parameter in learning.values())
    print(f"trainable parameters       {parameters / 1e6:8.1f} million")
    print(f"checkpoint                 {size / 1e6:8.1f} MB")
    print(f"training pauses for        {pause:8.3f} s")
    print(f"a thread writes for        {write:8.3f} s")
    print(f"interval on a cluster      {schedule.interval:8.1f} s (at most {LARGEST_SHARE:.0%} of the time)")
    most = schedule.interval + pause + write  # a checkpoint that is still being written does not count
    print(f"a lost node costs at most  {most:8.1f} s of work, {most - schedule.interval / 2:.1f} s on average")


if __name__ == "__main__":
    main(sys.argv[1:])
