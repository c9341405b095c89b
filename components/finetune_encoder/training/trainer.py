"""Training with the transformers ``Trainer``, in one process or in each of torchrun's processes.

A checkpoint holds only the trainable parameters: for adapters on 7 billion frozen weights that is megabytes. A step that does
not fit into memory is repeated with half of the batch; it sees the same utterances either way.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import TrainerState, TrainingArguments, set_seed

from components.finetune_encoder.training.batches import Examples
from components.finetune_encoder.training.callbacks import Reporter, Tracker
from components.finetune_encoder.training.checkpointing import CheckpointWriter, Patience, agreed_checkpoint, is_over
from components.finetune_encoder.training.encoder_trainer import EncoderTrainer, EpochOrder, restore, trainable
from components.finetune_encoder.training.job import Curve, Share, TrainingJob, half_of, halved, share_step
from components.finetune_encoder.training.live_tracking import LiveRun
from components.finetune_encoder.training.snapshot import STATE, WEIGHTS, checkpoint_name
from components.finetune_encoder.training.trainable import choose_trainable
from mistere.artifacts.checkpoints import Checkpoints
from mistere.common.progress import Progress
from mistere.config.differences import changed_settings
from mistere.data.utterances import FeatureSpool
from mistere.metrics.classification import confusion, weighted_f1
from mistere.model.encoders.device import choose_device, training_precision
from mistere.model.encoders.families import families
from mistere.model.encoders.utterance_encoder import UtteranceEncoder, save_tuned


def train(job: TrainingJob, checkpoints: Checkpoints, progress: Progress) -> Curve:
    """Fine-tune, write the best epoch's weights to ``job.output``, and return the curve.

    Raises:
        PreemptedError: SIGTERM; the work so far is kept.
        MistereError: not even one utterance fits into the device's memory.
    """
    config = job.config
    where = f"{job.modality}."
    device = choose_device(config.device, where + "device")
    precision = training_precision(config.precision, device, where + "precision")
    learns_all = config.tuning == "full"
    set_seed(config.seed)
    family = families()[job.family](job.base, config, torch.float32 if learns_all else precision)
    model = UtteranceEncoder(family, config, job.classes)
    choose_trainable(model, config)
    with FeatureSpool.open(job.train) as training, FeatureSpool.open(job.dev) as dev:
        curve: Curve = []
        if len(training) and len(dev):
            curve = _fit_in_memory(model, job, training, dev, checkpoints, progress, precision)
    if _is_first_process():
        save_tuned(model.eval(), job.output)
    return curve


def _is_first_process() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def _fit_in_memory(
    model: UtteranceEncoder,
    job: TrainingJob,
    training: FeatureSpool,
    dev: FeatureSpool,
    checkpoints: Checkpoints,
    progress: Progress,
    precision: torch.dtype,
) -> Curve:
    """Train. If a batch does not fit into the device's memory, halve it and resume from the last checkpoint.

    One process of several cannot resume alone: it raises the error, and the parent process restarts all of them.
    """
    config = job.config
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    effective = config.batch_size * config.accumulation
    micro_batch = job.micro_batch
    start = {name: parameter.detach().cpu().clone() for name, parameter in trainable(model).items()}
    while True:
        share = share_step(effective, micro_batch, processes)
        try:
            return _fit(model, job, training, dev, checkpoints, progress, precision, share)
        except torch.OutOfMemoryError as error:
            if processes > 1:
                raise
            micro_batch = half_of(share.micro, job.modality, job.kind.size_setting)
            error.__traceback__ = None  # it holds the activations
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        model.zero_grad(set_to_none=True)
        restore(model, start)
        set_seed(config.seed)
        progress.note(halved(share.micro, micro_batch, effective))


def _fit(
    model: UtteranceEncoder,
    job: TrainingJob,
    training: FeatureSpool,
    dev: FeatureSpool,
    checkpoints: Checkpoints,
    progress: Progress,
    precision: torch.dtype,
    share: Share,
) -> Curve:
    """Train from the last checkpoint, if there is one; ``model`` has the best epoch's weights afterwards."""
    config = job.config

    def collate(examples: list[tuple[dict[str, Any], int]]) -> dict[str, Any]:
        features = model.family.collate([features for features, _ in examples])
        return {"features": features, "labels": torch.tensor([label for _, label in examples])}

    def measure(prediction: Any) -> dict[str, float]:
        counts = confusion(prediction.label_ids.astype(np.int64), prediction.predictions.argmax(1), job.classes)
        return {"weighted_f1": float(weighted_f1(counts))}

    excerpt = config.excerpt_seconds if job.kind.timed else None
    examples = Examples(training, model.family, config, excerpt, config.augmentation.variants)
    writer = CheckpointWriter(checkpoints, config.checkpoint_seconds)
    trainer = EncoderTrainer(
        config=config,
        class_weights=job.class_weights,
        writer=writer,
        lengths=examples.lengths,
        model=model,
        args=_arguments(job, checkpoints.directory, share, precision),
        train_dataset=examples,
        eval_dataset=Examples(dev, model.family, config),
        data_collator=collate,
        compute_metrics=measure,
        callbacks=[Patience(config.patience), Reporter(progress, config.epochs)],
    )
    trainer.add_callback(EpochOrder(trainer))
    if config.tracking and _is_first_process() and job.tracking_uri:
        run = LiveRun(job.tracking_uri, job.run_id, job.task, job.key, progress, job.store)
        trainer.add_callback(Tracker(run, changed_settings(config)))
    trainer.add_callback(writer)
    last = agreed_checkpoint(checkpoints.directory, trainer.args, progress.note)
    state = TrainerState.load_from_json(str(last / STATE)) if last else None
    before = writer.watch_for_termination()
    try:
        if last is not None and state is not None and is_over(state, config.patience):
            trainer.load(last)
            best = last.with_name(checkpoint_name(state.best_global_step)) if state.best_global_step else last
            restore(model, load_file(best / WEIGHTS))
        else:
            trainer.train(resume_from_checkpoint=str(last) if last else None)
            state = trainer.state
        writer.wait()
    except BaseException:
        with suppress(Exception):  # report the first error
            writer.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)
    return _curve(state.log_history, trainer.epoch_losses)


def _arguments(job: TrainingJob, directory: Path, share: Share, precision: torch.dtype) -> TrainingArguments:
    config = job.config
    cuda = choose_device(config.device, f"{job.modality}.device").type == "cuda"
    several_nodes = os.environ.get("LOCAL_WORLD_SIZE") != os.environ.get("WORLD_SIZE")
    return TrainingArguments(
        output_dir=str(directory),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=share.micro,
        per_device_eval_batch_size=2 * share.micro,
        gradient_accumulation_steps=share.accumulation,
        warmup_steps=config.warmup,
        lr_scheduler_type="linear" if config.schedule == "linear" else "constant_with_warmup",
        max_grad_norm=1.0,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_on_each_node=several_nodes,  # every process reads the best epoch's weights at the end
        load_best_model_at_end=True,
        metric_for_best_model="weighted_f1",
        greater_is_better=True,
        logging_strategy="epoch",
        disable_tqdm=True,
        report_to="none",
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=cuda,
        use_cpu=not cuda,
        bf16=precision == torch.bfloat16,
        fp16=precision == torch.float16,
        ddp_find_unused_parameters=False,
        ddp_backend="gloo" if not cuda and "RANK" in os.environ else None,
        seed=config.seed,
        data_seed=config.seed,
    )


def _curve(log: list[dict[str, float]], losses: Sequence[float]) -> Curve:
    """The learning curve: for each epoch the mean training loss and the Trainer's metrics on dev."""
    curve: Curve = []
    for entry in log:
        if "eval_weighted_f1" in entry:
            epoch = round(entry["epoch"])
            curve.append(
                {
                    "epoch": epoch,
                    "loss": round(losses[epoch - 1], 6),
                    "dev_loss": round(entry["eval_loss"], 6),
                    "dev_weighted_f1": round(entry["eval_weighted_f1"], 6),
                }
            )
    return curve
