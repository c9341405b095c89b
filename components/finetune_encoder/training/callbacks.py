"""Callbacks that report a fine-tuning while it runs: progress, and the learning curve in MLflow."""

from __future__ import annotations

import math
from typing import Any

from transformers import TrainerCallback, TrainerState

from components.finetune_encoder.training.live_tracking import LiveRun
from mistere.common.progress import Progress


class Reporter(TrainerCallback):
    """Reports progress to the user."""

    def __init__(self, progress: Progress, epochs: int) -> None:
        self._progress, self._epochs = progress, epochs
        self._latest = ""

    def on_step_end(self, _args: Any, state: TrainerState, _control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            epoch = max(1, math.ceil(state.epoch or 0))
            self._progress(f"epoch {epoch}/{self._epochs}{self._latest}", state.global_step, state.max_steps)

    def on_evaluate(self, _args: Any, _state: Any, _control: Any, metrics: dict[str, float], **_: Any) -> None:
        self._latest = f", dev weighted F1 {metrics['eval_weighted_f1']:.3f}"


class Tracker(TrainerCallback):
    """Logs the learning curve to MLflow during training."""

    def __init__(self, run: LiveRun, settings: dict[str, Any]) -> None:
        self._run, self._settings = run, settings

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._run.start(self._settings)

    def on_log(self, _args: Any, state: TrainerState, _control: Any, logs: dict[str, float], **_: Any) -> None:
        names = {"loss": "loss", "eval_loss": "dev_loss", "eval_weighted_f1": "dev_weighted_f1"}
        self._run.log({names[key]: value for key, value in logs.items() if key in names}, round(state.epoch or 0))

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self._run.finish()
