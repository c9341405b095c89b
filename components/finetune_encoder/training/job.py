"""A training as its processes are given it, and how it is split among them.

Nothing here loads torch or transformers: the process of a step that trains in other processes, or on other machines, only starts them.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel

from mistere.common.errors import MistereError, UsageError
from mistere.common.modalities import Modality
from mistere.config.encoder import EncoderConfig
from mistere.data.kinds import kind_of
from mistere.data.kinds.kind import Kind

Curve = list[dict[str, float]]


class TrainingJob(BaseModel):
    """Everything a training process needs; torchrun's processes read it as JSON.

    Attributes:
        config: the modality's section.
        modality: the encoder's modality.
        family: of the backbone.
        base: folder of the base weights.
        classes: number of labels.
        class_weights: weight of an utterance by its class; None for equal weights.
        micro_batch: utterances that a process may hold at once.
        train: spool of the prepared training utterances.
        dev: spool of the dev utterances.
        output: folder for ``tuned.safetensors``.
        store: the object store, for checkpoints.
        key: the step's key.
        task: the task's name.
        run_id: the run's.
        tracking_uri: MLflow; empty for none.
    """

    config: EncoderConfig
    modality: Modality
    family: str
    base: Path
    classes: int
    class_weights: list[float] | None
    micro_batch: int
    train: Path
    dev: Path
    output: Path
    store: str
    key: str
    task: str
    run_id: str
    tracking_uri: str

    @property
    def kind(self) -> Kind:
        """The kind of the modality."""
        from mistere.model.encoders.families import families

        return kind_of(families()[self.family].kind)


class PreemptedError(MistereError):
    """The process was terminated (SIGTERM) after it wrote a checkpoint."""


class Share(NamedTuple):
    """How an optimiser step is split: it sees ``micro · accumulation · processes`` utterances."""

    micro: int
    accumulation: int


def share_step(effective: int, micro_batch: int, processes: int) -> Share:
    """Split an optimiser step among processes, with as many utterances at a time as fit.

    Args:
        effective: utterances in an optimiser step, which never changes.
        micro_batch: utterances that a process may hold at once.
        processes: number of processes.

    Raises:
        UsageError: the step cannot be split evenly.
    """
    each, rest = divmod(effective, processes)
    if rest:
        raise UsageError(
            f"batch_size · accumulation is {effective}, which {processes} processes cannot share evenly: choose a multiple "
            f"of {processes}."
        )
    micro = max(size for size in range(1, min(micro_batch, each) + 1) if each % size == 0)
    return Share(micro, each // micro)


def half_of(micro: int, modality: str, size_setting: str) -> int:
    """Number of utterances to try at once if ``micro`` did not fit.

    Args:
        micro: that number.
        modality: the modality.
        size_setting: of its section, the setting that makes an utterance smaller.

    Raises:
        MistereError: even one utterance did not fit.
    """
    if micro > 1:
        return micro // 2
    raise MistereError(
        f"one utterance at a time does not fit into the device's memory: lower {modality}.{size_setting}, set "
        f"{modality}.gradient_checkpointing=true, or choose {modality}.tuning=qlora."
    )


def halved(micro: int, micro_batch: int, effective: int) -> str:
    """The message about a halved batch."""
    return (
        f"{micro} utterances at once do not fit into the device's memory: continuing with {micro_batch} at once; an optimiser step "
        f"still sees {effective}."
    )
