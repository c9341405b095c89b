"""Fine-tuning from a dataset: prepare every utterance once, train, write the trained parameters.

Utterances are decoded and converted to features once, with a thread for each core, and stored in a scratch file that the
training processes read.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.finetune_encoder.call_copies import CallCopies
from components.finetune_encoder.training.job import Curve, TrainingJob
from mistere.artifacts.identities import EncoderDescription, EncoderIdentity
from mistere.artifacts.manifest import canonical_digest
from mistere.artifacts.manifests import EncoderCheckpoint, UtteranceSet
from mistere.common.counting import counted, plural
from mistere.common.digests.files import digest_of
from mistere.common.errors import DataError
from mistere.common.modalities import Modality, cell_of
from mistere.common.progress import Progress
from mistere.common.splits import Split
from mistere.config.encoder import PREPROCESSING, EncoderConfig
from mistere.data.dataset import Utterance
from mistere.data.kinds import kind_of
from mistere.data.kinds.kind import Kind, UnreadableError
from mistere.data.utterances import FeatureSpool, PreviousTurns, UtteranceReader, undecodable
from mistere.engine.stage import Step
from mistere.model.encoders.device import choose_device
from mistere.model.encoders.families import families
from mistere.model.encoders.families.family import Family
from mistere.model.encoders.preparation import Features, prepared
from mistere.model.encoders.sources import resolve_base
from mistere.model.losses import balanced_weights

_FITTING_SPLITS: tuple[Split, Split] = ("train", "dev")


def fine_tune(
    config: EncoderConfig, step: Step, reference: UtteranceSet, output: Path, modality: Modality
) -> EncoderCheckpoint:
    """Fine-tune one encoder and write its trained parts to ``output``.

    Raises:
        UsageError: the source, the device or a setting is not valid, or a TrainJob is requested outside a cluster.
        DataError: an utterance's audio, image or vector does not decode and ``undecodable`` is ``fail``.
        PreemptedError: SIGTERM; a checkpoint is kept.
    """
    if config.uses_trainjob:
        from components.finetune_encoder.nodes.launch import check_nodes

        check_nodes(config, modality, step.store)
    else:
        choose_device(config.device, f"{modality}.device")
    kind = kind_of(reference.kinds[modality])
    reader = UtteranceReader(reference, _FITTING_SPLITS, store=step.store)

    def inputs() -> Iterator[Any]:
        for utterance in reader.stream("train", (modality,)):
            value = _input(kind, modality, "train", utterance, config, ())
            if value is not None and not isinstance(value, UnreadableError):
                yield value

    base = resolve_base(config, kind.name, step.store, inputs)
    family = families()[base.manifest.family](base.path, config)
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        counts: list[int] = []
        skipped = 0
        for split in _FITTING_SPLITS:
            labels, failed = _spool(reader, modality, split, family, config, scratch / split, step.progress)
            counts = counts or np.bincount(labels, minlength=len(reference.labels)).tolist()
            skipped += failed
        if skipped:
            step.progress.note(
                f"{counted(skipped, 'utterance')} whose {kind.name} does not decode {plural(skipped, 'is', 'are')} treated as missing."
            )
        job = TrainingJob(
            config=config,
            modality=modality,
            family=base.manifest.family,
            base=base.path,
            classes=len(reference.labels),
            class_weights=balanced_weights(counts) if config.class_weights == "balanced" else None,
            micro_batch=config.batch_size,
            train=scratch / "train",
            dev=scratch / "dev",
            output=output,
            store=step.store.uri,
            key=step.key,
            task=step.task,
            run_id=step.run.run_id,
            tracking_uri=step.run.tracking_uri,
        )
        history = _train(job, base.manifest.digest, step, scratch)
    return EncoderCheckpoint(
        modality=modality,
        labels=reference.labels,
        encoder=EncoderDescription(
            identity=EncoderIdentity(
                source=base.manifest.source,
                digest=canonical_digest(
                    [
                        base.manifest.digest,
                        digest_of(output / "tuned.safetensors"),
                        config.model_dump(mode="json", include={*PREPROCESSING, "pooling", "projection"}),
                    ]
                ),
                test_digest=reference.test_digest,
            ),
            family=base.manifest.family,
            base_digest=base.manifest.digest,
            dimension=config.projection,
            settings=config.for_checkpoint(),
        ),
        undecodable=skipped,
        metrics={"dev.weighted_f1": max((epoch["dev_weighted_f1"] for epoch in history), default=0.0)},
        history=history,
    )


def _train(job: TrainingJob, base_digest: str, step: Step, scratch: Path) -> Curve:
    if job.config.uses_trainjob:
        from components.finetune_encoder.nodes.launch import train_on_nodes

        return train_on_nodes(job, base_digest, step)
    step.checkpoints.restore()
    if job.config.processes == 1:
        with step.loading():
            from components.finetune_encoder.training.trainer import train

        return train(job, step.checkpoints, step.progress)
    from components.finetune_encoder.processes.local import train_in_processes

    return train_in_processes(job, scratch, step.progress)


def _input(
    kind: Kind, modality: str, split: Split, utterance: Utterance, config: EncoderConfig, context: Sequence[str]
) -> Any | UnreadableError | None:
    """The encoder's input for an utterance, None without the modality, or the error if it may be left out.

    Raises:
        DataError: it cannot be read, and ``undecodable`` is ``fail``.
    """
    cell = cell_of(utterance, modality)
    try:
        return None if cell is None else kind.encoder_input(cell, config, context)
    except UnreadableError as error:
        if config.undecodable == "fail":
            raise DataError(undecodable(split, utterance, modality, error)) from error
        return error


def _spool(
    reader: UtteranceReader,
    modality: str,
    split: Split,
    family: Family,
    config: EncoderConfig,
    folder: Path,
    progress: Progress,
) -> tuple[list[int], int]:
    """Prepare every labelled utterance of a split that has the modality; returns their classes and the number of undecodable ones.

    Each train utterance is followed by its copies, if the training hears some through a call.
    """
    spool = FeatureSpool(folder)
    classes = {label: index for index, label in enumerate(reader.reference.labels)}
    total = reader.reference.rows[split]
    previous = PreviousTurns(reader, config.context_turns, (split,))

    kind = kind_of(family.kind)
    copies = CallCopies.of(config, reader) if split == "train" else None

    def prepare(utterance: Utterance) -> tuple[list[Features], int] | UnreadableError | None:
        if utterance.label is None:
            return None
        values = []
        for one in (utterance, *(copies(utterance) if copies else ())):
            value = _input(kind, modality, split, one, config, previous.of(split, one))
            if value is None or isinstance(value, UnreadableError):
                return value
            values.append(value)
        try:
            return [family.prepare(value) for value in values], classes[utterance.label]
        except UnreadableError as error:
            if config.undecodable == "fail":
                raise DataError(undecodable(split, utterance, modality, error)) from error
            return error

    skipped = 0
    stream = reader.stream(split, (modality,))
    for count, example in enumerate(prepared(prepare, stream), 1):
        if isinstance(example, UnreadableError):
            skipped += 1
        elif example is not None:
            variants, label = example
            for features in variants:
                spool.append(features, label)
        progress(f"reading {split} utterances", count, total)
    spool.close()
    return spool.labels[:: copies.variants if copies else 1], skipped
