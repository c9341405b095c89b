"""Batches of training: which dialogues are together, and which of their modalities are dropped."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

import torch

from mistere.model.embeddings import EmbeddedDialogue
from mistere.model.mixture.mixture import DialogueBatch


def dialogue_batches(
    dialogues: Sequence[EmbeddedDialogue], size: int, draw: random.Random, *, by_length: bool = True
) -> list[list[EmbeddedDialogue]]:
    """Batches in random order, of dialogues of similar length or of any.

    Args:
        dialogues: of one split.
        size: number of dialogues in a batch.
        draw: source of the order.
        by_length: similar length; dialogues of equal length are shuffled among themselves.
    """
    order = list(dialogues)
    draw.shuffle(order)
    if by_length:
        order.sort(key=len)
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    draw.shuffle(batches)
    return batches


def drop_modalities(batch: DialogueBatch, rate: float) -> DialogueBatch:
    """Drop one modality of some utterances that have several (modality dropout).

    Args:
        batch: the batch; not changed.
        rate: share of the utterances.
    """
    names = list(batch.inputs)
    if rate <= 0 or len(names) < 2:
        return batch
    several = torch.stack([batch.present[name] for name in names]).sum(0) > 1
    # Drawn on the CPU, so that a seed gives the same draws on every device.
    hit = (torch.rand(len(several)) < rate).to(several.device)
    victim = torch.randint(len(names), (len(several),)).to(several.device)
    inputs, present = {}, {}
    for index, name in enumerate(names):
        dropped = hit & several & (victim == index)
        inputs[name] = batch.inputs[name].masked_fill(dropped[:, None], 0.0)
        present[name] = batch.present[name] & ~dropped
    return dataclasses.replace(batch, inputs=inputs, present=present)
