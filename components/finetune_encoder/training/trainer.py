"""Training with the transformers ``Trainer``, in one process or in each of torchrun's processes.

A checkpoint holds only the trainable parameters: for adapters on 7 billion frozen weights that is megabytes. A step that does
not fit into memory is repeated with half of the batch; it sees the same utterances either way.
"""

from __future__ import annotations

import gc
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments, set_seed

from components.finetune_encoder.training.batches import Examples, LengthBatches, Share, share_step
from components.finetune_encoder.training.callbacks import Reporter, Tracker
from components.finetune_encoder.training.checkpointing import CheckpointWriter, Patience, agreed_checkpoint, is_over
from components.finetune_encoder.training.live_tracking import LiveRun
from components.finetune_encoder.training.trainable import choose_trainable
from mistere.artifacts.checkpoints import Checkpoints
from mistere.common.errors import MistereError
from mistere.common.modalities import Modality
from mistere.common.progress import Progress
from mistere.config.encoder import EncoderConfig
from mistere.data.utterances import FeatureSpool
from mistere.metrics.classification import confusion, weighted_f1
from mistere.model.encoders.device import choose_device, training_precision
from mistere.model.encoders.families import families
from mistere.model.encoders.utterance_encoder import UtteranceEncoder, save_tuned
from mistere.model.losses import focal_loss

Curve = list[dict[str, float]]


class TrainingJob(BaseModel):
    """Everything a training process needs; torchrun's processes read it as JSON.

    Attributes:
        config: the modality's section.
        modality: ``speech`` or ``text``.
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
    start = {name: parameter.detach().cpu().clone() for name, parameter in _learning(model).items()}
    while True:
        share = share_step(effective, micro_batch, processes)
        try:
            return _fit(model, job, training, dev, checkpoints, progress, precision, share)
        except torch.OutOfMemoryError as error:
            if processes > 1:
                raise
            micro_batch = half_of(share.micro, job.modality)
            error.__traceback__ = None  # it holds the activations
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        model.zero_grad(set_to_none=True)
        _restore(model, start)
        set_seed(config.seed)
        progress.note(halved(share.micro, micro_batch, effective))


def half_of(micro: int, modality: str) -> int:
    """Number of utterances to try at once if ``micro`` did not fit.

    Raises:
        MistereError: even one utterance did not fit.
    """
    if micro > 1:
        return micro // 2
    raise MistereError(
        f"one utterance at a time does not fit into the device's memory: lower {modality}."
        f"{'max_seconds' if modality == 'speech' else 'max_tokens'}, set {modality}.gradient_checkpointing=true, or choose "
        f"{modality}.tuning=qlora."
    )


def halved(micro: int, micro_batch: int, effective: int) -> str:
    """The message about a halved batch."""
    return (
        f"{micro} utterances at once do not fit into the device's memory: going on with {micro_batch} at once; an optimiser step "
        f"still sees {effective}."
    )


def _learning(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def _restore(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    learning = _learning(model)
    if learning.keys() != tensors.keys():
        odd = sorted(learning.keys() ^ tensors.keys())[0]
        raise MistereError(f"the checkpoint is not of this encoder: only one of them has {odd}.")
    for name, parameter in learning.items():
        parameter.copy_(tensors[name])


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

    writer = CheckpointWriter(checkpoints, config.checkpoint_seconds)
    trainer = _EncoderTrainer(
        job=job,
        lengths=training.lengths,
        model=model,
        args=_arguments(job, checkpoints.directory, share, precision),
        train_dataset=Examples(training),
        eval_dataset=Examples(dev),
        data_collator=collate,
        compute_metrics=measure,
        callbacks=[Patience(config.patience), Reporter(progress, config.epochs)],
    )
    trainer.add_callback(_EpochOrder(trainer))
    if config.tracking and _is_first_process() and job.tracking_uri:
        run = LiveRun(job.tracking_uri, job.run_id, job.task, job.key, progress)
        trainer.add_callback(Tracker(run, job.config.model_dump(mode="json")))
    trainer.add_callback(writer)
    last = agreed_checkpoint(checkpoints.directory, trainer.args)
    state = TrainerState.load_from_json(str(last / "trainer_state.json")) if last else None
    before = writer.watch_for_termination()
    try:
        if last is not None and state is not None and is_over(state, config.patience):
            trainer.load(last)
            best = last.with_name(f"checkpoint-{state.best_global_step}") if state.best_global_step else last
            _restore(model, load_file(best / "model.safetensors"))
        else:
            trainer.train(resume_from_checkpoint=str(last) if last else None)
            state = trainer.state
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
        lr_scheduler_type="linear",
        max_grad_norm=1.0,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
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


class _EncoderTrainer(Trainer):
    """The Trainer with the project's loss, two learning rates, batches, and checkpoints of trainable parameters."""

    optimizer: torch.optim.Optimizer | None

    def __init__(self, *, job: TrainingJob, lengths: Sequence[int], **arguments: Any) -> None:
        super().__init__(**arguments)
        config = job.config
        self._settings = config
        self._gamma = config.focal_gamma if config.loss == "focal" else 0.0
        self._weights = None if job.class_weights is None else torch.tensor(job.class_weights)
        self.order = LengthBatches(lengths, config.batch_size * config.accumulation, config.seed)
        self.epoch_losses: list[float] = []
        self._loss_sum = torch.zeros((), dtype=torch.float64)
        self._loss_count = 0

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return self.order

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            settings = self._settings
            named = [(name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad]
            groups = [
                ("backbone.", True, settings.learning_rate),
                ("backbone.", False, settings.head_learning_rate),
            ]
            self.optimizer = torch.optim.AdamW(
                [
                    {"params": [p for name, p in named if name.startswith(prefix) is inside], "lr": rate}
                    for prefix, inside, rate in groups
                    if any(name.startswith(prefix) is inside for name, _ in named)
                ],
                weight_decay=settings.weight_decay,
            )
        return self.optimizer

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, **_: Any) -> Any:
        logits = model(inputs["features"]).float()
        labels = inputs["labels"]
        weights = None if self._weights is None else self._weights.to(logits.device)
        loss = focal_loss(logits, labels, self._gamma, weights)
        if model.training:
            self._loss_sum = self._loss_sum.to(loss.device) + loss.detach().double() * len(labels)
            self._loss_count += len(labels)
        return (loss, logits) if return_outputs else loss

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        inputs = self._prepare_inputs(inputs)
        with torch.inference_mode(), self.compute_loss_context_manager():
            loss, logits = self.compute_loss(model, inputs, return_outputs=True)
        return loss.detach(), logits.detach(), inputs["labels"]

    def end_epoch(self) -> None:
        """Record the mean loss of an epoch, also if an earlier process began it."""
        self.epoch_losses.append(float(self._loss_sum) / max(1, self._loss_count))
        self._loss_sum, self._loss_count = torch.zeros((), dtype=torch.float64), 0

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        learning = {name: p.detach().cpu().contiguous() for name, p in _learning(self.model).items()}
        save_file(learning, folder / "model.safetensors", metadata={"format": "pt"})
        losses = {"epochs": self.epoch_losses, "sum": float(self._loss_sum), "count": self._loss_count}
        (folder / "losses.json").write_text(json.dumps(losses), encoding="utf-8")

    def load(self, folder: Path) -> None:
        """Load a checkpoint's weights and the running loss of its epoch."""
        _restore(self.model, load_file(folder / "model.safetensors"))
        losses = json.loads((folder / "losses.json").read_text(encoding="utf-8"))
        self.epoch_losses, self._loss_count = list(losses["epochs"]), int(losses["count"])
        self._loss_sum = torch.tensor(losses["sum"], dtype=torch.float64)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.load(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        _restore(self.model, load_file(Path(str(self.state.best_model_checkpoint)) / "model.safetensors"))


class _EpochOrder(TrainerCallback):
    """Sets each epoch's order (the Trainer does not find the sampler under distributed wrapping) and records its loss."""

    def __init__(self, trainer: _EncoderTrainer) -> None:
        self._trainer = trainer

    def on_epoch_begin(self, _args: Any, state: TrainerState, _control: Any, **_: Any) -> None:
        steps = max(1, round(state.max_steps / state.num_train_epochs))
        self._trainer.order.set_epoch(state.global_step // steps)

    def on_epoch_end(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        self._trainer.end_epoch()


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
