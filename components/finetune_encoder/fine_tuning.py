"""Fine-tuning through the transformers ``Trainer``: focal loss, two learning rates, best epoch by dev weighted F1.

Utterances are decoded and turned into features once, kept in a scratch file, and batched by length; each epoch's order is a
function of the seed and the epoch alone, so a run that was killed goes on from its last checkpoint as if nothing had
happened.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_model
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from transformers import Trainer, TrainerCallback, TrainerState, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

from components.core.checkpoints import Checkpoints
from components.core.config.encoder import EncoderConfig
from components.core.dataset import Split, Utterance
from components.core.encoders import families
from components.core.encoders.family import Family, Features
from components.core.encoders.inputs import encoder_input
from components.core.encoders.preparation import prepared
from components.core.encoders.sources import resolve_base
from components.core.encoders.utterance_encoder import UtteranceEncoder, save_tuned
from components.core.errors import UsageError
from components.core.file_digest import digest_of
from components.core.losses import focal_loss
from components.core.manifests import EncoderCheckpoint, UtteranceSet, canonical_digest
from components.core.metrics import confusion, weighted_f1
from components.core.progress import Progress
from components.core.stage import Step
from components.core.utterances import FeatureSpool, UtteranceReader, batches_by_length


def fine_tune(
    config: EncoderConfig, step: Step, reference: UtteranceSet, output: Path, modality: Literal["speech", "text"]
) -> EncoderCheckpoint:
    """Fine-tune one encoder and write its trained parts to ``output``."""
    base = resolve_base(config, modality, step.store)
    set_seed(config.seed)
    family = families()[base.manifest.family](base.path, config)
    model = UtteranceEncoder(family, config, len(reference.labels))
    choose_trainable(model, config)
    with tempfile.TemporaryDirectory() as scratch:
        reader = UtteranceReader(reference, ("train", "dev"))
        data = {
            split: _spool(reader, split, family, config, Path(scratch) / split, step.progress)
            for split in _FITTING_SPLITS
        }
        history = _fit(model, data, config, Path(scratch), step)
    save_tuned(model, output)
    return EncoderCheckpoint(
        modality=modality,
        labels=reference.labels,
        family=family.name,
        dimension=config.projection,
        base_digest=base.manifest.digest,
        source=config.source,
        encoder_digest=canonical_digest(
            [base.manifest.digest, digest_of(output / "tuned.safetensors"), config.model_dump(include=_PREPROCESSING)]
        ),
        settings=config.model_dump(mode="json"),
        metrics={"dev.weighted_f1": max((epoch["dev_weighted_f1"] for epoch in history), default=0.0)},
        history=history,
    )


_FITTING_SPLITS: tuple[Split, Split] = ("train", "dev")
_PREPROCESSING = {"max_tokens", "min_seconds", "max_seconds", "pooling", "projection"}


def choose_trainable(model: UtteranceEncoder, config: EncoderConfig) -> None:
    """Say which parameters learn: all of the backbone, its top layers, adapters, or none; what is on top always does."""
    backbone = model.backbone
    if config.tuning == "lora":
        from peft import LoraConfig, inject_adapter_in_model

        backbone.requires_grad_(False)
        targets = config.lora.target_modules or list(model.family.lora_targets)
        adapters = LoraConfig(
            r=config.lora.rank, lora_alpha=config.lora.alpha, lora_dropout=config.lora.dropout, target_modules=targets
        )
        try:
            inject_adapter_in_model(adapters, backbone)
        except ValueError as error:
            raise UsageError(
                f"encoder {config.source}: no module ends in {' or '.join(targets)}; name others in "
                f"{model.family.modality}.lora.target_modules."
            ) from error
        return
    if config.tuning == "frozen":
        backbone.requires_grad_(False)
    elif config.train_layers is not None:
        backbone.requires_grad_(False)
        layers = model.family.layers(backbone)
        for layer in layers[max(0, len(layers) - config.train_layers) :]:
            layer.requires_grad_(True)


def _spool(
    reader: UtteranceReader, split: Split, family: Family, config: EncoderConfig, path: Path, progress: Progress
) -> FeatureSpool:
    """Prepare every utterance of a split that has the modality, once."""
    spool = FeatureSpool(path)
    classes = {label: index for index, label in enumerate(reader.reference.labels)}
    total = reader.reference.rows[split]
    speech = family.modality == "speech"

    def prepare(utterance: Utterance) -> tuple[Features, int] | None:
        value = encoder_input(family.modality, utterance, config)
        return None if value is None else (family.prepare(value), classes[utterance.label])

    stream = reader.stream(split, audio=speech, text=not speech)
    for count, example in enumerate(prepared(prepare, stream), 1):
        if example is not None:
            spool.append(*example)
        progress(f"reading {split} utterances", count, total)
    return spool


class _Examples(Dataset[tuple[dict[str, Any], int]]):
    def __init__(self, spool: FeatureSpool) -> None:
        self._spool = spool

    def __len__(self) -> int:
        return len(self._spool)

    def __getitem__(self, index: int) -> tuple[dict[str, Any], int]:
        return self._spool[index]


class LengthBatches(Sampler[int]):
    """Indices in shuffled batches of similar length; the order is a function of the seed and the epoch.

    Utterances are shuffled, cut into groups of 16 batches, sorted by length within a group, and the batches shuffled.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths, self._size, self._seed, self._epoch = lengths, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the training loop at the start of each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        draw = random.Random(self._seed * 1_000_003 + self._epoch)
        indices = list(range(len(self._lengths)))
        draw.shuffle(indices)
        batches: list[list[int]] = []
        group = 16 * self._size
        for start in range(0, len(indices), group):
            part = indices[start : start + group]
            order = batches_by_length([self._lengths[index] for index in part], self._size)
            batches += [[part[position] for position in batch] for batch in order]
        short = [batch for batch in batches if len(batch) < self._size]
        full = [batch for batch in batches if len(batch) == self._size]
        draw.shuffle(full)
        return iter([index for batch in [*full, *short] for index in batch])


class _EncoderTrainer(Trainer):
    """The Trainer with our loss, our two learning rates and our batches."""

    optimizer: torch.optim.Optimizer | None

    def __init__(self, *, settings: EncoderConfig, lengths: Sequence[int], **arguments: Any) -> None:
        super().__init__(**arguments)
        self._settings, self._lengths = settings, lengths

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return LengthBatches(self._lengths, self.args.train_batch_size, self._settings.seed)

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
        logits = model(inputs["features"])
        loss = focal_loss(logits, inputs["labels"], self._settings.focal_gamma)
        return (loss, logits) if return_outputs else loss

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        inputs = self._prepare_inputs(inputs)
        with torch.inference_mode(), self.compute_loss_context_manager():
            loss, logits = self.compute_loss(model, inputs, return_outputs=True)
        return loss.detach(), logits.detach(), inputs["labels"]


class _Reporter(TrainerCallback):
    """Progress for people, checkpoints to the store, and the curve for the report."""

    def __init__(self, progress: Progress, checkpoints: Checkpoints, epochs: int) -> None:
        self._progress, self._checkpoints, self._epochs = progress, checkpoints, epochs
        self._latest = ""

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        epoch = max(1, math.ceil(state.epoch or 0))
        self._progress(f"epoch {epoch}/{self._epochs}{self._latest}", state.global_step, state.max_steps)

    def on_evaluate(self, _args: Any, _state: Any, _control: Any, metrics: dict[str, float], **_: Any) -> None:
        self._latest = f", dev weighted F1 {metrics['eval_weighted_f1']:.3f}"

    def on_save(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        self._checkpoints.save(f"checkpoint-{state.global_step}")


def _fit(
    model: UtteranceEncoder, data: dict[Split, FeatureSpool], config: EncoderConfig, scratch: Path, step: Step
) -> list[dict[str, float]]:
    """Train, leave the best epoch's weights in ``model``, and return the curve."""
    if not len(data["train"]) or not len(data["dev"]):
        return []
    checkpoints = step.checkpoints
    checkpoints.restore()

    def collate(examples: list[tuple[dict[str, Any], int]]) -> dict[str, Any]:
        features = model.family.collate([features for features, _ in examples])
        return {"features": features, "labels": torch.tensor([label for _, label in examples])}

    def measure(prediction: Any) -> dict[str, float]:
        classes = prediction.predictions.shape[1]
        counts = confusion(prediction.label_ids.astype(np.int64), prediction.predictions.argmax(1), classes)
        return {"weighted_f1": float(weighted_f1(counts))}

    cuda = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(checkpoints.directory),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.extraction_batch,
        gradient_accumulation_steps=config.accumulation,
        warmup_steps=config.warmup,
        lr_scheduler_type="linear",
        max_grad_norm=1.0,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
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
        bf16=cuda and torch.cuda.is_bf16_supported(),
        seed=config.seed,
        data_seed=config.seed,
    )
    train = data["train"]
    trainer = _EncoderTrainer(
        settings=config,
        lengths=train.lengths,
        model=model,
        args=arguments,
        train_dataset=_Examples(train),
        eval_dataset=_Examples(data["dev"]),
        data_collator=collate,
        compute_metrics=measure,
        callbacks=[
            _Patience(config.patience),
            _Reporter(step.progress, checkpoints, config.epochs),
        ],
    )
    last = last_whole_checkpoint(checkpoints.directory)
    state = TrainerState.load_from_json(str(last / "trainer_state.json")) if last else None
    if last is not None and state is not None and _is_over(state, config.patience):
        load_model(model, str(last.with_name(f"checkpoint-{state.best_global_step}") / "model.safetensors"))
    else:
        trainer.train(resume_from_checkpoint=str(last) if last else None)
        state = trainer.state
    model.eval()
    for spool in data.values():
        spool.close()
    return _curve(state.log_history)


def _is_over(state: TrainerState, patience: int) -> bool:
    """Whether training has run its epochs, or as many as ``patience`` after the best one.

    A function of the recorded state alone, so that a resumed run stops where an uninterrupted one does.
    """
    if state.max_steps and state.global_step >= state.max_steps:
        return True
    if not state.best_global_step or not state.epoch:
        return False
    steps_an_epoch = state.global_step / state.epoch
    return round((state.global_step - state.best_global_step) / steps_an_epoch) >= patience


class _Patience(TrainerCallback):
    """Early stopping on dev weighted F1."""

    def __init__(self, patience: int) -> None:
        self._patience = patience

    def on_save(self, _args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        if _is_over(state, self._patience):
            control.should_training_stop = True


def last_whole_checkpoint(directory: Path) -> Path | None:
    """The newest checkpoint, with its best one's path set to where it lies now.

    One that a kill left half-written (its state goes last) is deleted, and so is one whose best checkpoint is gone.
    """
    for folder in directory.glob("checkpoint-*"):
        try:
            state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
            best = directory / f"checkpoint-{state['best_global_step']}"
        except (OSError, ValueError, LookupError):
            shutil.rmtree(folder)
            continue
        if not (best / "model.safetensors").is_file():
            shutil.rmtree(folder)
        elif state.get("best_model_checkpoint") != str(best):
            aside = folder / "trainer_state.json.partial"
            aside.write_text(json.dumps({**state, "best_model_checkpoint": str(best)}), encoding="utf-8")
            aside.replace(folder / "trainer_state.json")
    last = get_last_checkpoint(str(directory))
    return Path(last) if last else None


def _curve(log: list[dict[str, float]]) -> list[dict[str, float]]:
    """One entry an epoch out of the Trainer's log."""
    epochs: dict[float, dict[str, float]] = {}
    for entry in log:
        if "loss" in entry or "eval_loss" in entry:
            point = epochs.setdefault(round(entry["epoch"]), {"epoch": round(entry["epoch"])})
            if "loss" in entry:
                point["loss"] = round(entry["loss"], 6)
            else:
                point["dev_loss"] = round(entry["eval_loss"], 6)
                point["dev_weighted_f1"] = round(entry["eval_weighted_f1"], 6)
    return [epochs[epoch] for epoch in sorted(epochs)]
