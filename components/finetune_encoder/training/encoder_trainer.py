"""The transformers ``Trainer`` with the project's loss, learning rates, batches and checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback, TrainerState
from transformers.trainer import OPTIMIZER_NAME, SCALER_NAME, SCHEDULER_NAME

from components.finetune_encoder.training.batches import LengthBatches
from components.finetune_encoder.training.checkpointing import CheckpointWriter
from components.finetune_encoder.training.snapshot import (
    LOSSES,
    RANDOM_STATE,
    WEIGHTS,
    Snapshot,
    checkpoint_name,
    random_state,
)
from mistere.common.errors import MistereError
from mistere.common.parsing.documents import read_json
from mistere.config.encoder import EncoderConfig
from mistere.model.losses import focal_loss


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable parameters of an encoder by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def restore(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load the trainable parameters of an encoder.

    Raises:
        MistereError: the tensors are of another encoder.
    """
    learning = trainable(model)
    if learning.keys() != tensors.keys():
        odd = sorted(learning.keys() ^ tensors.keys())[0]
        raise MistereError(
            f"the checkpoint is not of this encoder: only one of them has {odd}; delete it and run again."
        )
    for name, parameter in learning.items():
        parameter.copy_(tensors[name])


class EncoderTrainer(Trainer):
    """The Trainer with the project's loss, two learning rates, batches, and checkpoints of trainable parameters."""

    optimizer: torch.optim.Optimizer | None

    def __init__(
        self,
        *,
        config: EncoderConfig,
        class_weights: Sequence[float] | None,
        writer: CheckpointWriter,
        lengths: Sequence[int],
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self._settings, self._writer = config, writer
        self._gamma = config.focal_gamma if config.loss == "focal" else 0.0
        self._weights = None if class_weights is None else torch.tensor(class_weights)
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

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Called by the Trainer in every process. It writes the checkpoint in the background."""
        self.store_flos()
        if self.state.best_global_step:
            best = checkpoint_name(self.state.best_global_step)
            self.state.best_model_checkpoint = str(Path(str(self.args.output_dir)) / best)
        random_states = self._random_states()
        self._writer.write(self.args, self.state, lambda: self._snapshot(random_states))

    def _random_states(self) -> dict[str, Any]:
        """The random states of all processes by file name, so that each node can write the whole checkpoint."""
        size = self.args.world_size
        if size == 1:
            return {RANDOM_STATE.format(""): random_state(every_device=False)}
        states: list[Any] = [None] * size
        torch.distributed.all_gather_object(states, random_state(every_device=True))
        return {RANDOM_STATE.format(f"_{rank}"): states[rank] for rank in range(size)}

    def _snapshot(self, random_states: dict[str, Any]) -> Snapshot:
        assert self.optimizer is not None and self.lr_scheduler is not None
        states = {
            OPTIMIZER_NAME: self.optimizer.state_dict(),
            SCHEDULER_NAME: self.lr_scheduler.state_dict(),
            **random_states,
        }
        if (scaler := getattr(self.accelerator, "scaler", None)) is not None:
            states[SCALER_NAME] = scaler.state_dict()
        losses = {"epochs": self.epoch_losses, "sum": float(self._loss_sum), "count": self._loss_count}
        return Snapshot.of(self.state, trainable(self.model), losses, states)

    def load(self, folder: Path) -> None:
        """Load a checkpoint's weights and the running loss of its epoch."""
        restore(self.model, load_file(folder / WEIGHTS))
        losses = read_json(folder / LOSSES)
        self.epoch_losses, self._loss_count = list(losses["epochs"]), int(losses["count"])
        self._loss_sum = torch.tensor(losses["sum"], dtype=torch.float64)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.load(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        self._writer.wait()
        if self.args.world_size > 1:
            torch.distributed.barrier()  # the first process of each node has written the folder that all of them read
        restore(self.model, load_file(Path(str(self.state.best_model_checkpoint)) / WEIGHTS))


class EpochOrder(TrainerCallback):
    """Sets each epoch's order and excerpts (the Trainer does not find the sampler under distributed wrapping) and records its loss."""

    def __init__(self, trainer: EncoderTrainer) -> None:
        self._trainer = trainer

    def on_epoch_begin(self, _args: Any, state: TrainerState, _control: Any, **_: Any) -> None:
        steps = max(1, round(state.max_steps / state.num_train_epochs))
        for part in (self._trainer.order, self._trainer.train_dataset):
            part.set_epoch(state.global_step // steps)

    def on_epoch_end(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        self._trainer.end_epoch()
